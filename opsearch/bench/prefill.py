"""Prefill time of a policy: predicted by a latency table, and measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

from opsearch.bench.pairs import Workload, timed_pairs
from opsearch.costs.base import Cost, policy_cost
from opsearch.models.encoding import Sample, batch_inputs
from opsearch.policy.policy import Policy

_PAIRS = 7


@dataclass(frozen=True)
class TimedPrefill:
    """Times of the decoder's prefill of one prompt at batch size 1.

    Attributes:
        n_visual: Visual tokens of the prompt.
        n_other: Other tokens of the prompt.
        predicted: The policy's by the latency table, ms.
        real: The policy's measured, median in alternation with the original, ms.
        original_predicted: The original's by the latency table, ms.
        original_real: The original's measured, ms.
    """

    n_visual: int
    n_other: int
    predicted: float
    real: float
    original_predicted: float
    original_real: float


def timed_prefill(
    model: Any, samples: Sequence[Sample], latency: Cost, policy: Policy
) -> TimedPrefill:
    """Time the typical sample under the original and under the policy."""
    sample = typical(samples)
    work = Workload(batch_inputs([sample], model.device), 1, *sample.shape)
    pairs = list(timed_pairs(model, work, policy, 1, _PAIRS))
    predicted = policy_cost(latency, policy, *sample.shape)
    return TimedPrefill(
        *sample.shape,
        predicted / 1e6,
        1e3 * median(pair.policy.prefill for pair in pairs),
        latency.stock(*sample.shape) / 1e6,
        1e3 * median(pair.original.prefill for pair in pairs),
    )


def typical(samples: Sequence[Sample]) -> Sample:
    """Return the sample nearest to the mean shape."""
    at = [mean(numbers) for numbers in zip(*(sample.shape for sample in samples), strict=True)]
    return min(samples, key=lambda s: abs(s.n_visual - at[0]) + abs(s.n_other - at[1]))
