"""Divergence of a pruned model's next-token distribution from the original's."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Divergence:
    """Means over answer positions, float64[...] each.

    Attributes:
        kl: KL(original || pruned) in nats.
        reverse_kl: KL(pruned || original) in nats.
        js: Jensen-Shannon divergence in nats.
        top1: Share of positions with the same most likely token.
    """

    kl: Tensor
    reverse_kl: Tensor
    js: Tensor
    top1: Tensor


def divergence(original: Tensor, pruned: Tensor, counted: Tensor) -> Divergence:
    """Compare logits [..., k, V] at the answer positions where counted[..., k] is true.

    Log-softmax is taken in float32. Leading dimensions broadcast, one original to many pruned.
    """
    p = torch.log_softmax(original.float(), -1)
    q = torch.log_softmax(pruned.float(), -1)
    m = torch.logaddexp(p, q) - math.log(2)
    js = (_kl(p, m) + _kl(q, m)) / 2
    same = (p.argmax(-1) == q.argmax(-1)).float()
    means = [_mean(value, counted) for value in (_kl(p, q), _kl(q, p), js, same)]
    return Divergence(*means)


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """Return the KL divergence over the last dimension, with rounding below zero clamped."""
    return (p.exp() * (p - q)).sum(-1).clamp(min=0.0)


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    values = values.double() * counted
    return values.sum(-1) / counted.sum(-1)
