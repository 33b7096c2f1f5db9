"""Suite `gpu-latency`: pruned prefill of seven checkpoints' decoders against the original's.

True shapes, random weights in bfloat16, 65 other tokens (45 for Qwen2.5-VL), batches of 1 and 8,
the policies of two rules (see rules.py) at the usual budgets; at batch 1 with layers launched one
by one and as CUDA graphs.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch

from opsearch.bench.checkpoints import FAMILIES, random_model, random_workload
from opsearch.bench.gpu import STOPPED, gpu, machine, measured_speeds
from opsearch.bench.latency import Row, kv_stored, latency_row
from opsearch.bench.pairs import Workload, timed_pairs
from opsearch.bench.roofline import Roofline
from opsearch.bench.rules import by_rule, usual_budgets
from opsearch.costs.shape import SHAPES, VISUAL_TOKENS, Shape
from opsearch.errors import OpsearchError
from opsearch.policy import Policy
from opsearch.runtime.graphs import Graphs

_RULES = ("tokens", "dop")
# What is asked first comes first: should time run out, the others are missing.
_CHECKPOINTS = sorted(SHAPES, key=lambda name: name != "llava-next-7b")


def gpu_latency(tiny: bool, limit: float) -> Iterator[Row]:
    """The device's speeds, then a row per checkpoint, batch, budget, rule and mode.

    tiny: three layers of a few weights on any device; limit: seconds after which nothing
    new is measured. Raises ModelError without `tiny` where there is no CUDA device.
    """
    device = gpu("gpu-latency", tiny)
    until = time.monotonic() + limit
    speeds = measured_speeds(device, tiny)
    yield machine(device, speeds)
    for name in _CHECKPOINTS:
        shape = _tiny(SHAPES[name]) if tiny else SHAPES[name]
        model = random_model(FAMILIES[name], shape, torch.bfloat16, device)
        for batch in (1, 8):
            for row in _rows(model, shape, _workload(model, name, batch, tiny), speeds, tiny):
                yield {"checkpoint": name, **row}
                if time.monotonic() > until:
                    yield STOPPED
                    return
        del model
        gc.collect()  # or the next model finds no room beside this one
        if device == "cuda":
            torch.cuda.empty_cache()


def _rows(model: Any, shape: Shape, work: Workload, speeds: Roofline, tiny: bool) -> Iterator[Row]:
    """One row per budget, rule and mode."""
    sample = work.n_visual, work.n_other
    for budget in usual_budgets(shape, *sample):
        for rule in _RULES:
            policy = by_rule(rule, budget, shape, *sample)
            named = {"rule": rule, "budget": budget, "batch": work.batch}
            if policy is None:
                yield {**named, "skipped": "no policy of the rule is within the budget"}
                continue
            for graphs in (None, Graphs()) if work.batch == 1 else (None,):
                named["mode"] = "eager" if graphs is None else "graph"
                try:
                    yield {**named, **_measured(model, shape, work, policy, speeds, tiny, graphs)}
                except torch.OutOfMemoryError:
                    torch.cuda.empty_cache()
                    yield {**named, "skipped": "the device has too little memory"}
                except OpsearchError as error:  # no graphs here
                    yield {**named, "skipped": str(error)}


def _measured(
    model: Any,
    shape: Shape,
    work: Workload,
    policy: Policy,
    speeds: Roofline,
    tiny: bool,
    graphs: Graphs | None,
) -> Row:
    kv = asdict(kv_stored(model, work, policy))
    same = {} if graphs is None else {"difference": _difference(model, work, policy, graphs)}
    new_tokens, repeats, warmups = (2, 1, 0) if tiny else (5, 5, 1)
    pairs = list(timed_pairs(model, work, policy, new_tokens, repeats, warmups, graphs))
    counts = policy.executed(work.n_visual)
    floor = speeds.floor(shape, counts, work.n_visual, work.n_other, work.batch)
    return {
        **latency_row(shape, policy, work, pairs),
        **same,
        "kv_bytes": kv,
        "roofline_ms": round(1e3 * floor, 4),
    }


@torch.inference_mode()
def _difference(model: Any, work: Workload, policy: Policy, graphs: Graphs) -> list[float]:
    """Graph against layers one by one: largest difference of logits, in their standard deviations.

    Of the workload, whose prefill is captured, and of a prompt with its image one place further in
    front, which replays that graph.
    """
    found, ids = [], work.inputs["input_ids"].shape
    for places in (0, -1):
        given = {k: t.roll(places, 1) if t.shape == ids else t for k, t in work.inputs.items()}
        with policy.apply(model):
            wanted = model(**given, logits_to_keep=1).logits.float()
        with policy.apply(model, graphs=graphs):
            got = model(**given, logits_to_keep=1).logits.float()
        found.append(float((got - wanted).abs().max() / wanted.std()))
    return found


def _workload(model: Any, name: str, batch: int, tiny: bool) -> Workload:
    n_other, shrunk = 45 if name == "qwen2.5-vl-7b" else 65, 16 if tiny else 1
    return random_workload(model, batch, VISUAL_TOKENS[name] // shrunk, n_other // shrunk)


def _tiny(shape: Shape) -> Shape:
    """A few weights; grouped-query attention where the checkpoint has it."""
    kv_heads = 4 if shape.kv_heads == shape.heads else 2
    return Shape(3, 64, 96, 4, kv_heads, 16, 128)
