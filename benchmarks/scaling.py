"""Suite `scaling`: growth of measuring time with layers, visual tokens, samples and workers.

Layers, visual tokens and samples: every policy of `dop` at one n_v on a narrow random LLaVA, in one
thread of this process. Workers: every policy of `dop` on the embedded model, by two workers of one
thread against one, in alternation, once all have loaded the model and run the originals. Processes:
the same without workers, an upper limit for two of them on this machine.
"""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch

from benchmarks.ceiling import ceiling
from benchmarks.measuring import new_engine
from benchmarks.narrow import random_llava, random_sample
from opsearch.data.embedded import embedded
from opsearch.measure.engine import Engine
from opsearch.measure.workers.cluster import Workers, joined, started
from opsearch.measure.workers.queue import shared
from opsearch.measure.workers.worker import WorkerModel
from opsearch.models.encoding import Sample, encode
from opsearch.models.fingerprint import fingerprint
from opsearch.models.loading import load_config, load_processor, load_weights
from opsearch.models.spec import ModelSpec
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec
from opsearch.problem.spaces.base import N_V_16
from opsearch.problem.spaces.depth import dop_space
from opsearch.rankers import make_ranker
from opsearch.timing.clock import Spread

_LAYERS, _SIDE = 16, 24
_REPEATS, _PAIRS = 3, 7
_CLS = RankerSpec("cls")
_MODEL = WorkerModel(ModelSpec(), 1)


def scaling() -> Iterator[dict[str, Any]]:
    """Yield rows of planned FLOPs and seconds; the last one, of workers, needs Ray and Linux."""
    torch.set_num_threads(1)
    for layers in (8, 16, 32):
        yield {"grows": "layers", **grown(layers=layers)}
    for side in (12, 24, 48):
        yield {"grows": "visual_tokens", **grown(side=side)}
    for samples in (1, 2, 4, 8):
        yield {"grows": "samples", **grown(samples=samples)}
    yield {"grows": "processes", **processes()}
    yield {"grows": "workers", **workers()}


def grown(layers: int = _LAYERS, side: int = _SIDE, samples: int = 1) -> dict[str, Any]:
    """Time the whole grid at n_v = 1 for side x side visual tokens; the fastest of several runs."""
    model = random_llava(layers, side)
    space = dop_space(layers, [Fraction(1)], _CLS)
    policies = [space.decode(point) for point in space.points.tolist()]
    wanted = [random_sample(side, question=i, image=i) for i in range(samples)]
    seconds = []
    for _ in range(_REPEATS):
        with new_engine(model) as engine:
            plan = engine.plan(policies, wanted)
            seconds.append(_timed(engine, policies, wanted))
    return {
        "layers": layers,
        "visual_tokens": side**2,
        "samples": samples,
        "policies": len(policies),
        "planned_gflops": round(plan.flops / 1e9, 3),
        "forwards": round(plan.forwards, 2),
        "seconds": round(min(seconds), 4),
    }


def workers(samples: int = 16, n_v: Sequence[Fraction] = N_V_16) -> dict[str, Any]:
    """Compare one worker with two: seconds and their ratio, as [quartile, median, quartile].

    `one_cpu_s` and `two_cpu_s` are CPU seconds by kind of process, means over all pairs.
    """
    model, (policies, wanted) = load_weights("demo"), _work(samples, n_v)
    with (
        joined(3, None),
        started(Workers(1), _MODEL, _say) as one,
        started(Workers(2), _MODEL, _say) as two,
    ):
        both = [each for each in (one, two) if each]
        for each in both:
            each.meet(fingerprint(model))
        pairs, spent = [], [Counter[str](), Counter[str]()]
        for repeat in range(1 + _PAIRS):
            times = []
            for each, kinds in zip(both, spent, strict=True):
                before = cpu_seconds()
                with new_engine(model, each) as engine:
                    times.append(_timed(engine, policies, wanted))
                if repeat:  # the first pair warms up
                    kinds.update(cpu_seconds() - before)
            if repeat:
                pairs.append(times)
    return {
        "cores": os.cpu_count(),
        "samples": samples,
        "policies": len(policies),
        "pairs": len(pairs),
        "one_s": Spread.of([a for a, _ in pairs]).row(),
        "two_s": Spread.of([b for _, b in pairs]).row(),
        "ratio": Spread.of([a / b for a, b in pairs]).row(),
        "one_cpu_s": {kind: round(total / len(pairs), 2) for kind, total in spent[0].items()},
        "two_cpu_s": {kind: round(total / len(pairs), 2) for kind, total in spent[1].items()},
    }


def processes(samples: int = 16, n_v: Sequence[Fraction] = N_V_16) -> dict[str, Any]:
    """Compare one plain process with two on the chunks of two workers, see `ceiling`."""
    policies, wanted = _work(samples, n_v)
    with new_engine(load_weights("demo")) as engine:
        chunks = shared(engine.plan(policies, wanted), 2).chunks
    needs = frozenset(make_ranker(_CLS).needs)
    return {"samples": samples, **ceiling(_MODEL, chunks, needs, _REPEATS)}


def _work(samples: int, n_v: Sequence[Fraction]) -> tuple[list[Policy], list[Sample]]:
    """Return every policy of `dop` on the embedded model, and `samples` of its samples."""
    config = load_config("demo")
    space = dop_space(config.text_config.num_hidden_layers, n_v, _CLS)
    wanted = encode(embedded("calibration", samples, 0), load_processor("demo"), config)
    return [space.decode(point) for point in space.points.tolist()], wanted


def cpu_seconds() -> Counter[str]:
    """Return the CPU seconds so far, from Linux' /proc.

    They are those of the driver, of its workers and of Ray's own processes ("other").
    """
    parents, names, ticks = {}, {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, tail = path.read_text().rpartition(")")
        except OSError:  # it has just ended
            continue
        pid, fields = int(path.parent.name), tail.split()
        names[pid], parents[pid] = head.partition("(")[2], int(fields[1])
        ticks[pid] = int(fields[11]) + int(fields[12])
    here, spent = os.getpid(), Counter[str]()
    for pid, count in ticks.items():
        at = pid
        while at and at != here:
            at = parents.get(at, 0)
        if at == here:
            worker = names[pid].startswith("ray::Worker")
            kind = "driver" if pid == here else "workers" if worker else "other"
            spent[kind] += count
    return Counter({kind: count / os.sysconf("SC_CLK_TCK") for kind, count in spent.items()})


def _timed(engine: Engine, policies: Sequence[Policy], samples: Sequence[Sample]) -> float:
    start = time.perf_counter()
    engine.measure(policies, samples)
    return time.perf_counter() - start


def _say(text: str) -> None:
    print(text, file=sys.stderr)
