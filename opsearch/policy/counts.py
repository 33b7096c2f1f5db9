"""Counts of a policy, int64[..., L, 3]: tokens per decoder layer and module (q, kv, mlp)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fractions import Fraction
from math import floor
from numbers import Rational
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from opsearch.errors import echo
from opsearch.formatting import parse_number

Counts = NDArray[np.int64]
Unit = Literal["fraction", "recipe", "tokens"]
"""Fractions are rounded to whole tokens, a recipe's deletions down; tokens are limited to all."""
Shares = NDArray[np.float64]
"""Share of the visual tokens in each operation, float64[L, 3]: counts before they are rounded."""
Candidates = Mapping[int, int | Counts]
Q, KV, MLP = 0, 1, 2
MODULES = ("q", "kv", "mlp")


def parse_share(value: Fraction | int | str) -> Fraction:
    """Return an exact share from text such as "0.42", "9/16" or "42%".

    Raises:
        ValueError: The text is no number, or one of too many digits; the message is the reason.
    """
    if not isinstance(value, str):
        return Fraction(value)
    if value.endswith("%"):
        return parse_number(value.removesuffix("%")) / 100
    return parse_number(value)


def exact_count(value: object) -> Fraction:
    """Return a count exactly; floats are errors, because 0.42 as a float is not 42/100.

    Raises:
        ValueError: The value is no exact number.
    """
    if isinstance(value, Fraction):
        return value
    if isinstance(value, bool | np.bool_) or not isinstance(value, str | Rational):
        raise ValueError(
            f"{echo(value)} is of type {type(value).__name__}, and not exact; write a Fraction, a "
            "whole number, or text such as '1/4' or '9/16'"
        )
    try:
        return parse_share(value if isinstance(value, str) else Fraction(value))
    except ValueError as error:
        raise ValueError(f"{echo(value)} {error}; write e.g. '1/4' or '9/16'") from None


def resolve_fraction(fraction: Fraction, n_visual: int) -> int:
    """Return floor(f N + 1/2), at least 1 if f > 0 and N > 0, at most N."""
    if fraction <= 0 or n_visual == 0:
        return 0
    rounded = (2 * fraction.numerator * n_visual + fraction.denominator) // (
        2 * fraction.denominator
    )
    return min(max(rounded, 1), n_visual)


def resolve_recipe(fractions: Collection[Fraction], n_visual: int) -> dict[Fraction, int]:
    """Return the tokens left of N by the shares left, where each deletion is rounded down.

    From one share to the next lower one, floor((f - g) N) tokens are deleted (FitPrune, AAAI 2025).

    Args:
        fractions: Shares of the tokens left, in any order.
        n_visual: Number N of visual tokens.
    """
    left, above, found = n_visual, Fraction(1), {}
    for fraction in sorted(set(fractions), reverse=True):
        left -= floor((above - fraction) * n_visual)
        found[fraction], above = left, fraction
    return found


def live(counts: Counts, candidates: Candidates | None = None) -> Counts:
    """Remove dead operations from counts.

    The q or mlp of a visual token in a layer is dead if no later layer reads the token's kv and no
    later ranker orders it.

    Args:
        counts: Counts, int64[..., L, 3].
        candidates: Number of tokens that a ranker orders, by the layer that it acts before; one
            number, or int64[...].

    Returns:
        Live counts, int64[..., L, 3].
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
