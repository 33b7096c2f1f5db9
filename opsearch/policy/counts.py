"""Counts of a policy: tokens per decoder layer and module, and which of them are live."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    pass

Counts = NDArray[np.int64]
Candidates = Mapping[int, int | Counts]
Q, KV, MLP = 0, 1, 2
MODULES = ("q", "kv", "mlp")


def resolve_fraction(fraction: Fraction, n_visual: int) -> int:
    """floor(f N + 1/2), at least 1 when f > 0 and N > 0, at most N."""
    if fraction <= 0 or n_visual == 0:
        return 0
    rounded = (2 * fraction.numerator * n_visual + fraction.denominator) // (
        2 * fraction.denominator
    )
    return min(max(rounded, 1), n_visual)


def live(counts: Counts, candidates: Candidates | None = None) -> Counts:
    """Counts without dead operations, for int[..., L, 3].

    A visual token's q or mlp at layer l is dead when no later layer reads its kv and no later
    ranker looks at it (`candidates`: tokens that a ranker before layer r reads, by r; int[...]
    each, or one number for all).
    """
    candidates = candidates or {}
    result = counts.copy()
    need = np.zeros(counts.shape[:-2], np.int64)
    for layer in reversed(range(counts.shape[-2])):
        need = np.maximum(need, candidates.get(layer + 1, 0))
        result[..., layer, Q] = np.minimum(counts[..., layer, Q], need)
        result[..., layer, MLP] = np.minimum(counts[..., layer, MLP], need)
        need = np.maximum(need, counts[..., layer, KV])
    return result
