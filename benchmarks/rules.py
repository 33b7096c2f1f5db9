"""Policies at a budget by fixed rules, so that suites do not depend on a search.

Time does not depend on which tokens are kept: all rules take evenly spaced ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from opsearch.costs.flops import text_only_floor
from opsearch.costs.shape import Shape
from opsearch.policy import builders
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec
from opsearch.timing.policy_latency import flop_ratio

_UNIFORM = RankerSpec("uniform")
_HALF = Fraction(1, 2)


def by_rule(rule: str, budget: float, shape: Shape, n_visual: int, n_other: int) -> Policy | None:
    """Return the costliest policy of a rule within a budget, None where there is none.

    Args:
        rule: "tokens": a share of the visual tokens, in hundredths, in all layers. "dop": half of
            them, in the first d layers. "dop, kv stays": the same, but all layers continue to read
            them.
        budget: Share of the original's FLOPs.
        shape: Shape of the decoder.
        n_visual: Visual tokens.
        n_other: Other tokens.
    """
    fitting = (
        policy
        for policy in _falling(rule, shape.layers)
        if flop_ratio(shape, policy, n_visual, n_other) <= budget
    )
    return next(fitting, None)


def usual_budgets(shape: Shape, n_visual: int, n_other: int) -> tuple[float, ...]:
    """Return 14 % of the FLOPs if the text alone takes less than 7 %, else 25 and 50 %."""
    return (0.14,) if text_only_floor(shape, n_visual, n_other) < 0.07 else (0.25, 0.5)


def _falling(rule: str, layers: int) -> Iterator[Policy]:
    """Yield the policies of a rule by falling cost."""
    if rule == "tokens":
        for share in range(99, 0, -1):
            yield builders.tokens(layers, Fraction(share, 100), _UNIFORM)
        return
    kv: builders.KVReading = "stays" if rule == "dop, kv stays" else "leaves"
    for d in range(layers - 1, -1, -1):
        yield builders.dop(layers, d, d, _HALF, _UNIFORM, kv)
