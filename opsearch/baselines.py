"""Simple methods at equal cost: each turns up its own knob until the budget is used."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from opsearch import builders
from opsearch.policy import Policy, RankerSpec

Fits = Callable[[Policy], bool]
_STEPS = 1000


def baselines(layers: int, ranker: RankerSpec, fits: Fits) -> dict[str, Policy]:
    """The methods by their label; one that cannot meet the budget at all is left out."""

    def reduction(spec: RankerSpec) -> Policy | None:
        return _largest(lambda share: builders.tokens(layers, share, spec), fits)

    withdrawals = (builders.vtw(layers, k) for k in reversed(range(layers + 1)))
    found = {
        f"tokens {ranker}": reduction(ranker),
        "tokens uniform": reduction(RankerSpec("uniform")),
        "tokens random": reduction(RankerSpec("random")),
        "VTW": next((policy for policy in withdrawals if fits(policy)), None),
        "FastV like": fastv_like(layers, ranker, fits),
    }
    return {label: policy for label, policy in found.items() if policy is not None}


def fastv_like(layers: int, ranker: RankerSpec, fits: Fits) -> Policy | None:
    """All tokens in the first K layers, a share after; K = 2 as published, or 1 where it must.

    The order is the run's ranking from before the decoder, not FastV's own attention at K - 1.
    """
    for k in (2, 1):

        def build(share: Fraction, k: int = k) -> Policy:
            return builders.stages(layers, {0: 1, k: share}, ranker)

        policy = _largest(build, fits) if k < layers else None
        if policy is not None:
            return policy
    return None


def _largest(build: Callable[[Fraction], Policy], fits: Fits) -> Policy | None:
    """The policy of the largest share i/1000 that fits; cost rises with the share."""
    low, high = 0, _STEPS
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(build(Fraction(middle, _STEPS))) else (low, middle - 1)
    return build(Fraction(low, _STEPS)) if low else None
