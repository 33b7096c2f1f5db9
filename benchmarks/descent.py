"""Suite `descent`: a step of gradient descent on token shares, with one thread and with all.

The embedded model, 32 samples, and shares as in the middle of a descent at 30 %. Each row is the
median over steps with other samples, in seconds of wall time, the settings in turn. `speedup` is
the median with one thread over that of the row.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from statistics import median

import numpy as np
import torch

from benchmarks.rows import BenchmarkRow
from opsearch.costs.shape import Shape
from opsearch.data.embedded import embedded
from opsearch.measure.relaxed.gradient import RelaxedDivergence
from opsearch.measure.sweep.originals import Originals
from opsearch.models.encoding import encode
from opsearch.models.loading import load_config, load_processor, load_weights
from opsearch.policy.ranker import RankerSpec
from opsearch.rankers import make_ranker

_BATCH, _STEPS, _MEMORY = 32, 8, 2 * 10**9
_SHARES, _WIDTH = (0.3, 0.45, 0.2), 0.12  # about those in the middle of a descent at 30 %


def descent_step(tiny: bool) -> Iterator[BenchmarkRow]:
    """Yield a row per number of threads.

    Args:
        tiny: Two steps of two samples instead of eight of 32.
    """
    steps, batch = (2, 2) if tiny else (_STEPS, _BATCH)
    items = embedded("calibration", steps * batch, 0)
    samples = encode(items, load_processor("demo"), load_config("demo"))
    model, threads = load_weights("demo"), torch.get_num_threads()
    gradient = RelaxedDivergence(
        Originals(model, 1), samples, make_ranker(RankerSpec("cls")), _MEMORY
    )
    shares = np.tile(_SHARES, (Shape.from_config(model.config).layers, 1))
    settings = {"one thread": (1, 1), "one product on all": (threads, 1), "all": (threads, threads)}
    seconds: dict[str, list[float]] = {name: [] for name in settings}
    gradient(shares, _WIDTH, range(len(samples)))  # keeps the original's states
    try:
        for step in range(steps):
            for name, (in_product, gradient.threads) in settings.items():
                torch.set_num_threads(in_product)
                start = time.perf_counter()
                gradient(shares, _WIDTH, range(step * batch, (step + 1) * batch))
                seconds[name].append(time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    for name, found in seconds.items():
        speedup = median(seconds["one thread"]) / median(found)
        yield {
            "threads": name,
            "cores": threads,
            "samples": batch,
            "seconds": round(median(found), 3),
            "speedup": round(speedup, 2),
        }
