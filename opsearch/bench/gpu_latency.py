"""Suite `gpu-latency`: pruned prefill of seven checkpoints' decoders against the original's.

True shapes, random weights in bfloat16, 65 other tokens (45 for Qwen2.5-VL), batches of 8 and 1,
the policies of two rules (see rules.py) at the usual budgets. Stops before it takes eight minutes.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch

from opsearch.bench.checkpoints import FAMILIES, random_model, random_workload
from opsearch.bench.gpu import gpu, machine, measured_speeds
from opsearch.bench.latency import Row, kv_stored, latency_row
from opsearch.bench.pairs import Workload, timed_pairs
from opsearch.bench.roofline import Roofline
from opsearch.bench.rules import by_rule, usual_budgets
from opsearch.costs.shape import SHAPES, VISUAL_TOKENS, Shape
from opsearch.policy import Policy

_SECONDS = 420.0  # after which nothing new is measured
_RULES = ("tokens", "dop")


def gpu_latency(tiny: bool) -> Iterator[Row]:
    """The device's speeds, then a row per checkpoint, batch, budget and rule.

    tiny: three layers of a few weights on whatever device there is. Raises ModelError without it
    where there is no CUDA device.
    """
    device = gpu("gpu-latency", tiny)
    started = time.monotonic()
    speeds = measured_speeds(device, tiny)
    yield machine(device, speeds)
    for name, true_shape in SHAPES.items():
        shape = _tiny(true_shape) if tiny else true_shape
        model = random_model(FAMILIES[name], shape, torch.bfloat16, device)
        for batch in (8, 1):
            for row in _rows(model, shape, _workload(model, name, batch, tiny), speeds, tiny):
                yield {"checkpoint": name, **row}
                if time.monotonic() - started > _SECONDS:
                    yield {"stopped": f"more than {_SECONDS:.0f} s passed; the rest is missing"}
                    return
        del model
        gc.collect()  # or the next model finds no room beside this one
        if device == "cuda":
            torch.cuda.empty_cache()


def _rows(model: Any, shape: Shape, work: Workload, speeds: Roofline, tiny: bool) -> Iterator[Row]:
    """One row per budget and rule."""
    sample = work.n_visual, work.n_other
    for budget in usual_budgets(shape, *sample):
        for rule in _RULES:
            policy = by_rule(rule, budget, shape, *sample)
            named = {"rule": rule, "budget": budget, "batch": work.batch}
            if policy is None:
                yield {**named, "skipped": "no policy of the rule is within the budget"}
                continue
            try:
                yield {**named, **_measured(model, shape, work, policy, speeds, tiny)}
            except torch.OutOfMemoryError:
                torch.cuda.empty_cache()
                yield {**named, "skipped": "the device has too little memory"}


def _measured(
    model: Any, shape: Shape, work: Workload, policy: Policy, speeds: Roofline, tiny: bool
) -> Row:
    kv = asdict(kv_stored(model, work, policy))
    new_tokens, repeats, warmups = (2, 1, 0) if tiny else (17, 7, 2)
    pairs = list(timed_pairs(model, work, policy, new_tokens, repeats, warmups))
    counts = policy.executed(work.n_visual)
    floor = speeds.floor(shape, counts, work.n_visual, work.n_other, work.batch)
    return {
        **latency_row(shape, policy, work, pairs),
        "kv_bytes": kv,
        "roofline_ms": round(1e3 * floor, 4),
    }


def _workload(model: Any, name: str, batch: int, tiny: bool) -> Workload:
    n_other, shrunk = 45 if name == "qwen2.5-vl-7b" else 65, 16 if tiny else 1
    return random_workload(model, batch, VISUAL_TOKENS[name] // shrunk, n_other // shrunk)


def _tiny(shape: Shape) -> Shape:
    """A few weights; grouped-query attention where the checkpoint has it."""
    kv_heads = 4 if shape.kv_heads == shape.heads else 2
    return Shape(3, 64, 96, 4, kv_heads, 16, 128)
