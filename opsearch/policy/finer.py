"""Finer shares of a policy from a coarse grid, up to the largest ones within a budget.

Spaces have a few shares of the tokens to choose from, whereas baselines move in thousandths. A
policy found in a space leaves the part of the budget unused that lies between two of its shares.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial

from opsearch.policy.baseline import Fits
from opsearch.policy.policy import Policy

_STEPS = 1000


def finer_shares(policy: Policy, fits: Fits) -> list[Policy]:
    """Return the policy with larger shares, in thousandths, that are the largest within a budget.

    Each share between 0 and 1 is raised alone, up to the next one that the policy has; if there are
    several, they are also raised together, in proportion. Policies with counts in tokens have none.

    Args:
        policy: A policy within the budget.
        fits: Return whether a policy is within the budget.
    """
    if policy.unit != "fraction":
        return []
    counts = {count for triple in policy.counts for count in triple}
    shares = sorted(count for count in counts if 0 < count < 1)
    if not shares:
        return []
    uppers = [*shares[1:], Fraction(1)]
    raised = [
        _largest(partial(_alone, share), share, upper, policy, fits)
        for share, upper in zip(shares, uppers, strict=True)
    ]
    if len(shares) > 1:
        raised.append(_largest(partial(_together, shares), shares[-1], uppers[-1], policy, fits))
    return [policy for policy in raised if policy is not None]


def _alone(share: Fraction, value: Fraction) -> dict[Fraction, Fraction]:
    return {share: value}


def _together(shares: Sequence[Fraction], value: Fraction) -> dict[Fraction, Fraction]:
    """Return all shares in proportion to the largest one, none below what it was."""
    return {share: max(share, _floored(share * value / shares[-1])) for share in shares}


def _largest(
    shares_at: Callable[[Fraction], Mapping[Fraction, Fraction]],
    low: Fraction,
    high: Fraction,
    policy: Policy,
    fits: Fits,
) -> Policy | None:
    """Return the policy at the largest value above `low` that fits, by bisection; None if none."""
    first, last = int(low * _STEPS), int(high * _STEPS)
    below, above = first, last
    while below < above:
        middle = (below + above + 1) // 2
        fit = fits(_with_shares(policy, shares_at(Fraction(middle, _STEPS))))
        below, above = (middle, above) if fit else (below, middle - 1)
    if below == first:
        return None
    return _with_shares(policy, shares_at(Fraction(below, _STEPS)))


def _with_shares(policy: Policy, shares: Mapping[Fraction, Fraction]) -> Policy:
    """Return the policy with some of its shares replaced by others."""
    counts = tuple(
        (shares.get(q, q), shares.get(kv, kv), shares.get(mlp, mlp)) for q, kv, mlp in policy.counts
    )
    words = ", ".join(f"{old} raised to {new}" for old, new in shares.items() if old != new)
    return replace(policy, counts=counts, name=f"{policy.name}, {words}")


def _floored(share: Fraction) -> Fraction:
    return Fraction(int(share * _STEPS), _STEPS)
