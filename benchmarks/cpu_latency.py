"""Suite `cpu-latency`: prefill time against FLOPs under pruning, on any machine.

A LLaVA of 118 M random weights (4 layers of width 1,024, a vocabulary of 32,064) in float32, 2,880
visual and 65 other tokens, batch 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy as np
import torch

from benchmarks.measuring import versions
from benchmarks.rows import BenchmarkRow
from benchmarks.rules import by_rule
from opsearch.costs.shape import Shape
from opsearch.policy.builders import identity
from opsearch.policy.policy import Policy
from opsearch.timing.generation import GenerationPair, timed, timed_pairs
from opsearch.timing.policy_latency import latency_row
from opsearch.timing.random_models import random_model, random_workload

SHAPE = Shape(4, 1024, 2816, 16, 16, 64, 32064, kv_bytes_per_element=4)
TINY = Shape(3, 64, 96, 4, 4, 16, 128, kv_bytes_per_element=4)
_RULES = ("tokens", "dop", "dop, kv stays")
_BUDGETS = (0.14, 0.3)
_IDENTITY_PAIRS, _PAIRS = 15, 3
# The 4th and the 12th of 15 values enclose the true median with 96 %.
_LOW, _HIGH = 3, 11


def cpu_latency(tiny: bool) -> Iterator[BenchmarkRow]:
    """Yield the machine, a row per rule and budget, then the overhead of idle policies.

    Args:
        tiny: Use a model of a few weights, as a smoke test.
    """
    shape, n_visual, n_other = (TINY, 180, 65) if tiny else (SHAPE, 2880, 65)
    model = random_model("llava", shape, torch.float32, "cpu")
    work = random_workload(model, 1, n_visual, n_other)
    yield {
        "parameters": sum(p.numel() for p in model.parameters()),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }
    with torch.inference_mode():
        timed(model, work.inputs, 2)  # warms up
    for rule in _RULES:
        for budget in _BUDGETS:
            policy = by_rule(rule, budget, shape, n_visual, n_other)
            if policy is None:
                continue
            pairs = list(timed_pairs(model, work, policy, 5, _PAIRS, warmups=0))
            yield {"rule": rule, "budget": budget, **latency_row(shape, policy, work, pairs)}
    for rule, policy in (("identity", identity(shape.layers)), ("hooks", _hooks(shape.layers))):
        yield {"rule": rule, **_overhead(model, shape, policy, n_visual, n_other)}


def _overhead(
    model: Any, shape: Shape, policy: Policy, n_visual: int, n_other: int
) -> BenchmarkRow:
    """Measure the overhead of a policy that prunes nothing."""
    work = random_workload(model, 1, n_visual, n_other)
    pairs = list(timed_pairs(model, work, policy, 2, _IDENTITY_PAIRS))
    row = latency_row(shape, policy, work, pairs)
    return {**row, "first_token_ratio_interval": _interval(pairs)}


def _hooks(layers: int) -> Policy:
    """Return a policy that keeps more tokens than a prompt has: every hook is installed and idle.

    The identity policy installs nothing; its row gives the noise of the measurement.
    """
    return Policy(((Fraction(10**6),) * 3,) * layers, unit="tokens", name="prunes nothing")


def _interval(pairs: list[GenerationPair]) -> list[float]:
    """Return a 96 % interval of the median ratio, valid for any distribution.

    The ratio is of whole calls up to the first token, because hooks also run before the decoder.
    """
    ratios = np.sort([pair.policy.first_token / pair.original.first_token for pair in pairs])
    return [round(float(ratios[at]), 4) for at in (_LOW, _HIGH)]
