"""Suite `gpu-engine`: exact optimum of a whole space at a checkpoint's true shape.

LLaVA-1.5-7B over DOP's space with 16 shares of tokens, then Qwen2.5-VL-7B over `depth` with all
tokens: 25 random samples, random weights in bfloat16, the true divergence of every policy, a few
samples at a time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from benchmarks.gpu import STOPPED, checkpoint_workload, gpu, machine, measured_speeds
from benchmarks.measuring import free_memory, new_engine
from benchmarks.roofline import Roofline
from benchmarks.rows import BenchmarkRow
from opsearch.costs.flops import Flops
from opsearch.costs.shape import CHECKPOINTS, Shape
from opsearch.data.item import Item
from opsearch.measure.planning.memory import memory_for
from opsearch.models.encoding import Sample
from opsearch.policy.ranker import RankerSpec
from opsearch.problem.spaces.base import N_V_16, Space, space_costs
from opsearch.problem.spaces.depth import depth_space, dop_space
from opsearch.timing.random_models import random_model

SEARCHES = (("llava-1.5-7b", dop_space, N_V_16), ("qwen2.5-vl-7b", depth_space, (Fraction(1),)))
BUDGET = 0.3
"""Budget of the optimum, as a share of the stock model's FLOPs."""
_SAMPLES, _AT_ONCE = 25, 5


def gpu_engine(tiny: bool, limit: float) -> Iterator[BenchmarkRow]:
    """Yield the device's speeds, then a row per part of the samples and one per search.

    Args:
        tiny: Use three layers of a few weights on any device.
        limit: Seconds after which no measurement starts.

    Raises:
        ModelError: There is no CUDA device and `tiny` is not set.
    """
    device = gpu("gpu-engine", tiny)
    until = time.monotonic() + limit
    speeds = measured_speeds(device, tiny)
    yield machine(device, speeds)
    for name, make, n_v in SEARCHES:
        shape = Shape(3, 64, 96, 4, 2, 16, 128) if tiny else CHECKPOINTS[name].shape
        model = random_model(CHECKPOINTS[name].family, shape, torch.bfloat16, device)
        space = make(shape.layers, n_v, RankerSpec("random"))
        samples = [_sample(model, name, i, tiny) for i in range(3 if tiny else _SAMPLES)]
        for row in _searched(model, space, samples, speeds, until):
            yield {"checkpoint": name, "space": space.name, "n_v": len(n_v), **row}
        del model
        free_memory(device)


def _searched(
    model: Any, space: Space, samples: Sequence[Sample], speeds: Roofline, until: float
) -> Iterator[BenchmarkRow]:
    """Yield seconds and speed after each part of the samples, then the optimum over them."""
    policies = [space.decode(point) for point in space.points.tolist()]
    tables: list[np.ndarray[Any, np.dtype[np.float64]]] = []
    seconds, flops = 0.0, 0
    with new_engine(model, memory=memory_for(model, None)) as engine:
        for first in range(0, len(samples), _AT_ONCE):
            if time.monotonic() > until:
                yield STOPPED
                break
            part = samples[first : first + _AT_ONCE]
            start = time.monotonic()
            plan = engine.plan(policies, part)
            planned = time.monotonic()
            tables.append(engine.measure(policies, part))
            spent = time.monotonic() - start
            seconds, flops = seconds + spent, flops + plan.flops
            yield {
                "samples": first + len(part),
                "forwards_per_sample": round(plan.forwards, 1),
                "chunks": len(plan.chunks),
                "planning_s": round(planned - start, 3),
                "seconds": round(seconds, 3),
                "flops_per_s": flops / seconds,
                "share_of_matmul_peak": round(flops / seconds / speeds.flops, 4),
            }
    if tables:
        yield _optimum(
            engine.memory_budget.shape, space, samples, np.concatenate(tables, axis=1), seconds
        )


def _optimum(
    shape: Shape,
    space: Space,
    samples: Sequence[Sample],
    table: np.ndarray[Any, np.dtype[np.float64]],
    seconds: float,
) -> BenchmarkRow:
    cost = Flops(shape)
    costs = space_costs(cost, space, [sample.shape for sample in samples])
    stock = sum(cost.stock(*sample.shape) for sample in samples)
    mean = np.where(costs <= BUDGET * stock, table.mean(axis=1), np.inf)
    best = int(mean.argmin())
    return {
        "policies": len(mean),
        "samples": table.shape[1],
        "budget": BUDGET,
        "optimum": space.decode(space.points[best].tolist()).name,
        "kl_nats": float(mean[best]),
        "seconds": round(seconds, 3),
    }


def _sample(model: Any, name: str, number: int, tiny: bool) -> Sample:
    torch.manual_seed(number)
    work = checkpoint_workload(model, name, 1, tiny)
    item = Item(f"random {number}", "", (), ())
    return Sample(item, item.id, dict(work.inputs), work.n_visual, work.n_other)
