"""Savings of a policy in time and memory, with the predictions of the cost model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, median
from typing import Any

import torch

from opsearch.costs.base import Cost, image_cost, policy_cost
from opsearch.costs.flops import Flops
from opsearch.costs.kv import KVBytes
from opsearch.costs.shape import Shape
from opsearch.models.encoding import Sample, batch_inputs
from opsearch.policy.policy import Policy
from opsearch.timing import PARTS
from opsearch.timing.clock import Spread
from opsearch.timing.generation import GenerationPair, Pass, Workload, timed_pairs

LatencyRow = dict[str, Any]
_PAIRS = 7  # of generations, for the time of one prompt


@dataclass(frozen=True)
class KVStored:
    """Bytes of the KV cache after the prefill of a batch.

    Attributes:
        original: In the original's tensors.
        policy: In the policy's tensors.
        original_cost: The original's by the cost model.
        policy_cost: The policy's by the cost model.
    """

    original: int
    policy: int
    original_cost: int
    policy_cost: int


@torch.inference_mode()
def kv_stored(model: Any, work: Workload, policy: Policy) -> KVStored:
    """Prefill once with each and count the bytes of their caches."""
    cost = KVBytes(Shape.from_config(model.config))
    original = _cache_bytes(model(**work.inputs, logits_to_keep=1).past_key_values)
    with policy.apply(model):
        pruned = _cache_bytes(model(**work.inputs, logits_to_keep=1).past_key_values)
    sample = work.n_visual, work.n_other
    return KVStored(
        original,
        pruned,
        work.batch * cost.stock(*sample),
        work.batch * policy_cost(cost, policy, *sample),
    )


def flop_ratio(shape: Shape, policy: Policy, n_visual: int, n_other: int) -> float:
    """Return the policy's FLOPs relative to the original's, convention `exact`."""
    cost = Flops(shape)
    return policy_cost(cost, policy, n_visual, n_other) / cost.stock(n_visual, n_other)


def latency_row(
    shape: Shape, policy: Policy, work: Workload, pairs: Sequence[GenerationPair]
) -> LatencyRow:
    """Return the spreads [low quartile, median, high quartile] of both sides and of their ratios.

    Ratios are taken in each pair. Times are in ms, memory is in bytes. Parts that did not run or
    cannot be measured on this device have no entry.
    """
    original, pruned = [pair.original for pair in pairs], [pair.policy for pair in pairs]
    return {
        "policy_name": policy.name,
        "batch": work.batch,
        "visual": work.n_visual,
        "other": work.n_other,
        "pairs": len(pairs),
        "flop_ratio": round(flop_ratio(shape, policy, work.n_visual, work.n_other), 5),
        "original": _side(original),
        "policy": _side(pruned),
        "ratio": {
            part: Spread.of(quotients).row()
            for part in ("prefill", "first_token", "decode")
            if (quotients := _quotients(original, pruned, part))
        },
    }


def _side(passes: Sequence[Pass]) -> LatencyRow:
    """Return the spreads of the parts that ran, by name."""
    row: LatencyRow = {}
    for part in PARTS:
        seconds = _part_seconds(passes, part)
        if seconds:
            row[f"{part}_ms"] = Spread.of(seconds).row(1e3)
    peaks = [each.peak_bytes for each in passes if each.peak_bytes is not None]
    return row | ({"peak_bytes": max(peaks)} if peaks else {})


def _quotients(original: Sequence[Pass], pruned: Sequence[Pass], part: str) -> list[float]:
    before, after = _part_seconds(original, part), _part_seconds(pruned, part)
    return [new / old for old, new in zip(before, after, strict=True)]


def _part_seconds(passes: Sequence[Pass], part: str) -> list[float]:
    """Return the seconds of a part in every pass; empty where it did not run."""
    found = [getattr(each, part) for each in passes]
    return [] if None in found else found


def _cache_bytes(cache: Any) -> int:
    """Return the bytes of a cache's tensors, original or pruned."""
    tensors = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values)]
    return sum(int(tensor.numel()) * int(tensor.element_size()) for tensor in tensors)


@dataclass(frozen=True)
class TimedPrefill:
    """Times of the prefill of one prompt at batch size 1, with its images where they were timed.

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
    images = image_cost(latency, [sample.size])

    def real(each: Pass) -> float:
        return each.from_images if images and each.from_images else each.prefill

    return TimedPrefill(
        *sample.shape,
        (policy_cost(latency, policy, *sample.shape) + images) / 1e6,
        1e3 * median(real(pair.policy) for pair in pairs),
        (latency.stock(*sample.shape) + images) / 1e6,
        1e3 * median(real(pair.original) for pair in pairs),
    )


def typical(samples: Sequence[Sample]) -> Sample:
    """Return the sample nearest to the mean shape."""
    at = [mean(numbers) for numbers in zip(*(sample.shape for sample in samples), strict=True)]
    return min(samples, key=lambda s: abs(s.n_visual - at[0]) + abs(s.n_other - at[1]))
