"""Budgets: from what the user types to an exact limit on the cost of every policy of a space.

A budget is a share of what the stock model costs (`30%`, `-70%`, `0.3x`; of its KV cache: `30% kv`)
or a mean per sample (`5.8T` FLOPs, `200MB` of KV cache, `120ms` of prefill; k, M, G, T are powers
of 1000). All arithmetic is in integers and exact fractions.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor

import numpy as np
from numpy.typing import NDArray

from opsearch.costs.base import Cost, policy_cost
from opsearch.errors import OpsearchError
from opsearch.formatting import format_amount
from opsearch.policy import builders
from opsearch.policy.policy import Policy
from opsearch.problem.constraint import Constraint
from opsearch.problem.spaces.base import POINTS_AT_ONCE, Space
from opsearch.problem.spaces.operation_costs import LayerCosts, layer_costs
from opsearch.problem.spaces.operations import LayerSpace
from opsearch.problem.spaces.recipes import RecipeCosts, RecipeSpace

EXAMPLES = "30%, -70%, 0.3x, 5.8T, 812M FLOPs, 200MB, 30% kv, 120ms"
_SHARE = re.compile(r"(-?)([\d.]+)\s*([%x])\s*([a-z_]*)")
_AMOUNT = re.compile(r"(-?)([\d.]+)\s*([kMGT])(?:\s*(FLOPs|B))?")
_TIME = re.compile(r"(-?)([\d.]+)\s*(us|ms|s)")
_NANOSECONDS = {"us": 10**3, "ms": 10**6, "s": 10**9}
PREFIXES = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


@dataclass(frozen=True)
class Budget:
    """An upper limit on one cost.

    text: as typed; cost: key of the cost in `COSTS`; amount: a share of the stock model where
    `relative`, else a mean per sample in the unit of the cost.
    """

    text: str
    cost: str
    amount: Fraction
    relative: bool

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read a budget; raises OpsearchError with examples for anything that is none."""
        stripped = text.strip()
        if match := _SHARE.fullmatch(stripped):
            sign, number, symbol, cost = match.groups()
            share = _number(text, number) / (100 if symbol == "%" else 1)
            return cls(text, cost or "flops", _checked_share(text, sign, symbol, share), True)
        if match := _AMOUNT.fullmatch(stripped):
            sign, number, prefix, unit = match.groups()
            amount = _spent(text, sign, number) * PREFIXES[prefix]
            return cls(text, "kv" if unit == "B" else "flops", amount, False)
        if match := _TIME.fullmatch(stripped):
            sign, number, unit = match.groups()
            return cls(text, "latency", _spent(text, sign, number) * _NANOSECONDS[unit], False)
        raise _error(text, "is not a share of the stock model or an amount per sample")

    def limit(self, stock: int, samples: int) -> int:
        """Largest total cost within the budget, for `samples` that cost the stock model `stock`."""
        return floor(self.amount * (stock if self.relative else samples))


def constraint(
    budget: Budget, cost: Cost, space: Space, samples: Sequence[tuple[int, int]]
) -> Constraint:
    """The budget as a limit on the cost of every point, summed over the samples.

    samples: (visual tokens, other tokens) of each. Raises OpsearchError when there are none, or
    when the stock model itself keeps within the budget.
    """
    if cost.name != budget.cost:
        raise OpsearchError(f"budget {budget.text!r} limits {budget.cost}, not {cost.name}")
    if not samples:
        raise OpsearchError(f"budget {budget.text!r} needs at least one sample to be applied to")
    stock = sum(k * cost.stock(n, t) for (n, t), k in Counter(samples).items())
    limit = budget.limit(stock, len(samples))
    if limit > stock:
        mean = format_amount(stock / len(samples), cost.unit)
        unit = "" if cost.name == "flops" else cost.name
        raise OpsearchError(
            f"budget {budget.text!r} prunes nothing: the stock model takes {mean} per sample; use "
            f"less, or a share such as 30%{unit}"
        )
    costs: NDArray[np.int64] | LayerCosts | RecipeCosts
    match space:
        case LayerSpace():
            costs = layer_costs(cost, space, samples)
        case RecipeSpace():
            costs = RecipeCosts(space, cost, Counter(samples))
        case _:
            costs = space_costs(cost, space, samples)
    floor = total_cost(cost, builders.vtw(space.num_layers, 0), samples)
    return Constraint(cost.name, cost.unit, costs, limit, stock, len(samples), floor)


def total_cost(cost: Cost, policy: Policy, samples: Sequence[tuple[int, int]]) -> int:
    """Cost of one policy summed over samples of (visual, other) tokens."""
    pairs = Counter(samples).items()
    return sum(k * policy_cost(cost, policy, n, t) for (n, t), k in pairs)


def space_costs(cost: Cost, space: Space, samples: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
    """Cost of every point summed over the samples, int64[P]; equal samples are computed once."""
    others: dict[int, Counter[int]] = defaultdict(Counter)
    for n_visual, n_other in samples:
        others[n_visual][n_other] += 1
    total = np.zeros(len(space.points), np.int64)
    for start in range(0, len(total), POINTS_AT_ONCE):
        block = slice(start, start + POINTS_AT_ONCE)
        for n_visual, times in others.items():
            counts = space.resolved(space.points[block], n_visual)
            turns = space.turns(space.points[block], n_visual)
            pools = turns.pools if turns else None
            for n_other, k in times.items():
                total[block] += k * cost.of(counts, n_visual, n_other, pools)
    return total


def _number(text: str, number: str) -> Fraction:
    try:
        return Fraction(number)
    except ValueError:
        raise _error(text, f"is not a number: {number!r}") from None


def _spent(text: str, sign: str, number: str) -> Fraction:
    """An amount per sample, above 0."""
    amount = _number(text, number)
    if sign or amount == 0:
        raise _error(text, "leaves nothing; an amount is what may be spent per sample")
    return amount


def _checked_share(text: str, sign: str, symbol: str, share: Fraction) -> Fraction:
    """What is left of the stock model: above 0, at most 1."""
    if sign and symbol == "x":
        raise _error(text, "is a negative factor; write the share that is left")
    if sign:
        share = 1 - share
    if share <= 0:
        raise _error(text, "leaves nothing, but the text alone costs something")
    if share > 1:
        raise _error(text, "prunes nothing: it is more than the stock model costs")
    return share


def _error(text: str, reason: str) -> OpsearchError:
    return OpsearchError(f"budget {text!r} {reason}; use for example {EXAMPLES}")
