"""Suite `latency-table`: prediction error of a fitted latency table on unseen policies.

On a CPU a LLaVA of 118 M random weights in float32 (that of `cpu-latency`), on a CUDA device one of
LLaVA-NeXT-7B's shape in bfloat16; 2,880 visual and 65 other tokens, batch 1.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from benchmarks.cpu_latency import SHAPE, TINY
from benchmarks.measuring import versions
from benchmarks.rows import BenchmarkRow
from opsearch.costs.latency import Latency
from opsearch.costs.shape import CHECKPOINTS, Shape
from opsearch.models.spec import ModelSpec
from opsearch.policy import builders
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec
from opsearch.timing.generation import Workload, timed
from opsearch.timing.latency_table import fit_latency
from opsearch.timing.random_models import random_model, random_workload

_POLICIES, _REPEATS = 32, 3
_RANDOM = RankerSpec("random")


def latency_table(tiny: bool) -> Iterator[BenchmarkRow]:
    """Yield the table and the time of its fit, a row per random policy, then the errors together.

    Args:
        tiny: Use a model of a few weights, as a smoke test.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shape, dtype = _model(device, tiny)
    n_visual, n_other = (180, 65) if tiny else (2880, 65)
    model = random_model("llava", shape, dtype, device)
    started = time.monotonic()
    spec = ModelSpec(dtype=str(dtype).removeprefix("torch."), device=device)
    table = fit_latency(model.config, [(n_visual, n_other)], spec)
    yield {
        "fitted_in_s": round(time.monotonic() - started, 1),
        "parameters": sum(p.numel() for p in model.parameters()),
        "versions": versions(),
        "table": vars(table),
    }
    cost, work = Latency(shape, table), random_workload(model, 1, n_visual, n_other)
    errors: list[float] = []
    for policy in _policies(shape.layers, 4 if tiny else _POLICIES):
        row = _row(model, work, policy, cost)
        errors.append(abs(row["error"]))
        yield row
    yield {
        "policies": len(errors),
        "median_error": round(float(np.median(errors)), 4),
        "largest_error": round(max(errors), 4),
    }


def _model(device: str, tiny: bool) -> tuple[Shape, torch.dtype]:
    if tiny:
        return TINY, torch.float32
    if device == "cuda":
        return CHECKPOINTS["llava-next-7b"].shape, torch.bfloat16
    return SHAPE, torch.float32


def _row(model: Any, work: Workload, policy: Policy, cost: Latency) -> BenchmarkRow:
    """Compare the fastest of three prefills with the prediction."""
    with torch.inference_mode(), policy.apply(model):
        real = min(timed(model, work.inputs, 1).prefill for _ in range(_REPEATS))
    counts = policy.resolve(work.n_visual)
    predicted = int(cost.of(counts, work.n_visual, work.n_other)) / 1e9
    return {
        "policy_name": policy.name,
        "predicted_ms": round(1e3 * predicted, 3),
        "real_ms": round(1e3 * real, 3),
        "error": round(predicted / real - 1, 4),
    }


def _policies(layers: int, count: int) -> Iterator[Policy]:
    """Yield the original, then random depths and random counts per layer in alternation."""
    rng = np.random.default_rng(0)
    yield builders.identity(layers)
    for i in range(count):
        if i % 2:
            counts = [
                [Fraction(int(n), 100) for n in rng.integers(0, 101, 3)] for _ in range(layers)
            ]
            triples = tuple((q, kv, mlp) for q, kv, mlp in counts)
            yield Policy(triples, rankers=((0, _RANDOM),), name=f"arbitrary {i}")
        else:
            d_q, d_kv, d_mlp = (int(d) for d in rng.integers(0, layers + 1, 3))
            share = Fraction(int(rng.integers(5, 100)), 100)
            yield builders.depth(layers, d_q, d_kv, d_mlp, share, _RANDOM)
