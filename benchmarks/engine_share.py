"""Suite `engine-share`: speed of the engine on the embedded model, as a share of the matmul peak.

The calls are those of a search: individual divergences of `operations`, then policies of that space
that share little, as a local search measures them. Seconds are processor time of one thread.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any

import torch

from benchmarks.measuring import new_engine, processor_seconds
from benchmarks.rows import BenchmarkRow
from opsearch.costs.shape import Shape
from opsearch.data.embedded import embedded
from opsearch.models.encoding import Sample, encode
from opsearch.models.loading import load_config, load_processor, load_weights
from opsearch.objectives.additive import Additive
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec
from opsearch.problem.spaces.base import SpaceSettings
from opsearch.problem.spaces.operations import Operations

_REPEATS, _SIDE = 3, 1024


def engine_share(tiny: bool) -> Iterator[BenchmarkRow]:
    """Yield a row per call.

    Args:
        tiny: Measure on two samples instead of 32.
    """
    torch.set_num_threads(1)
    samples = encode(
        embedded("calibration", 2 if tiny else 32, 0), load_processor("demo"), load_config("demo")
    )
    model = load_weights("demo")
    layers = Shape.from_config(model.config).layers
    space = Operations.from_settings(SpaceSettings(num_layers=layers, ranker=RankerSpec("cls")))
    first = space.decode([0] * len(space.parameters))
    generator = random.Random(0)
    sizes = [len(parameter.values) for parameter in space.parameters]
    points = [[generator.randrange(size) for size in sizes] for _ in range(32)]
    calls = {
        "individual divergences": Additive().policies(space),
        "unrelated policies": [space.decode(point) for point in points],
    }
    for name, policies in calls.items():
        yield {"call": name, "samples": len(samples), **_row(model, first, policies, samples)}


def _row(
    model: Any, first: Policy, policies: Sequence[Policy], samples: Sequence[Sample]
) -> BenchmarkRow:
    """Return the median seconds of policies, measured after `first` and with it the original."""
    flops, seconds, peaks = 0, [], []
    for _ in range(_REPEATS):
        with new_engine(model) as engine:
            engine.measure([first], samples)
            flops = engine.plan(policies, samples).flops
            seconds.append(processor_seconds(lambda: engine.measure(policies, samples))[1])
        peaks.append(_matmul_speed())
    return {
        "policies": len(policies),
        "flops": flops,
        "seconds": round(median(seconds), 3),
        "matmul_flops_per_s": max(peaks),
        "share_of_matmul_peak": round(flops / median(seconds) / max(peaks), 3),
    }


def _matmul_speed() -> float:
    """Return the FLOPs per second of processor time of the fastest of ten matrix products."""
    a = torch.randn(_SIDE, _SIDE)
    seconds = []
    for _ in range(10):
        start = time.process_time()
        torch.mm(a, a)
        seconds.append(time.process_time() - start)
    return 2 * _SIDE**3 / min(seconds)
