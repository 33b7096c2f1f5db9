"""Suite `gpu-latency`: pruned against original prefill of seven checkpoints' decoders.

True shapes, random weights in bfloat16, 65 other tokens (45 for Qwen2.5-VL), batches of 1 and 8,
the policies of two rules (see rules.py) at the usual budgets; at batch 1 with layers launched one
by one and as CUDA graphs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch

from benchmarks.gpu import STOPPED, checkpoint_workload, gpu, machine, measured_speeds
from benchmarks.measuring import free_memory
from benchmarks.roofline import Roofline
from benchmarks.rows import BenchmarkRow
from benchmarks.rules import by_rule, usual_budgets
from opsearch.costs.shape import CHECKPOINTS, Shape
from opsearch.errors import OpsearchError
from opsearch.models.pruned.cuda_graphs import Graphs
from opsearch.policy.policy import Policy
from opsearch.timing.generation import Workload, timed_pairs
from opsearch.timing.policy_latency import kv_stored, latency_row
from opsearch.timing.random_models import random_model

_RULES = ("tokens", "dop")
# The most important checkpoint comes first, in case time runs out.
_CHECKPOINTS = sorted(CHECKPOINTS, key=lambda name: name != "llava-next-7b")


def gpu_latency(tiny: bool, limit: float) -> Iterator[BenchmarkRow]:
    """Yield the device's speeds, then a row per checkpoint, batch, budget, rule and mode.

    Args:
        tiny: Use three layers of a few weights on any device.
        limit: Seconds after which no measurement starts.

    Raises:
        ModelError: There is no CUDA device and `tiny` is not set.
    """
    device = gpu("gpu-latency", tiny)
    until = time.monotonic() + limit
    speeds = measured_speeds(device, tiny)
    yield machine(device, speeds)
    for name in _CHECKPOINTS:
        shape = _tiny(CHECKPOINTS[name].shape) if tiny else CHECKPOINTS[name].shape
        model = random_model(CHECKPOINTS[name].family, shape, torch.bfloat16, device)
        for batch in (1, 8):
            work = checkpoint_workload(model, name, batch, tiny)
            for row in _rows(model, shape, work, speeds, tiny):
                yield {"checkpoint": name, **row}
                if time.monotonic() > until:
                    yield STOPPED
                    return
        del model, work
        free_memory(device)


def _rows(
    model: Any, shape: Shape, work: Workload, speeds: Roofline, tiny: bool
) -> Iterator[BenchmarkRow]:
    """Yield a row per budget, rule and mode."""
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
                except OpsearchError as error:  # graphs are not supported
                    yield {**named, "skipped": str(error)}


def _measured(
    model: Any,
    shape: Shape,
    work: Workload,
    policy: Policy,
    speeds: Roofline,
    tiny: bool,
    graphs: Graphs | None,
) -> BenchmarkRow:
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
    """Return the largest differences of logits, graphs against eager, in standard deviations.

    The first is on the workload, whose prefill is captured; the second on a prompt with its image
    shifted by one position, which replays that graph.
    """
    found, ids = [], work.inputs["input_ids"].shape
    for shift in (0, -1):
        inputs = {k: t.roll(shift, 1) if t.shape == ids else t for k, t in work.inputs.items()}
        with policy.apply(model):
            eager = model(**inputs, logits_to_keep=1).logits.float()
        with policy.apply(model, graphs=graphs):
            replayed = model(**inputs, logits_to_keep=1).logits.float()
        found.append(float((replayed - eager).abs().max() / eager.std()))
    return found


def _tiny(shape: Shape) -> Shape:
    """Return a shape of a few weights, with grouped-query attention if the checkpoint has it."""
    kv_heads = 4 if shape.kv_heads == shape.heads else 2
    return Shape(3, 64, 96, 4, kv_heads, 16, 128)
