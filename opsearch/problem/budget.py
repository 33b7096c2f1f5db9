"""Budgets: from what the user types to an exact limit on the cost of every policy of a space.

A budget is a share of what the stock model costs (`30%`, `-70%`, `0.3x`; of its KV cache: `30% kv`)
or a mean per sample (`5.8T` FLOPs, `200MB` of KV cache, `120ms` of prefill; k, M, G, T are powers
of 1000). All arithmetic is in integers and exact fractions.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import Any

from opsearch import registry
from opsearch.costs.base import Cost, policy_cost
from opsearch.errors import OpsearchError
from opsearch.formatting import PREFIXES, format_amount
from opsearch.policy import builders
from opsearch.policy.policy import Policy
from opsearch.problem.constraint import Constraint
from opsearch.problem.spaces.base import Space

EXAMPLES = "30%, -70%, 0.3x, 5.8T, 812M FLOPs, 200MB, 30% kv, 120ms"
_SHARE = re.compile(r"(-?)([\d.]+)\s*([%x])\s*([A-Za-z_][\w.-]*)?")
_AMOUNT = re.compile(r"(-?)([\d.]+)\s*([kMGT])\s*([A-Za-z]*)")
_TIME = re.compile(r"(-?)([\d.]+)\s*(us|ms|s)")
_NANOSECONDS = {"us": 10**3, "ms": 10**6, "s": 10**9}


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

    @property
    def cost_class(self) -> Any:
        """The class of the cost; UnknownNameError where there is none of that name."""
        return registry.lookup("costs", self.cost)

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read a budget; raises OpsearchError with examples for anything that is none."""
        stripped = text.strip()
        if match := _SHARE.fullmatch(stripped):
            sign, number, symbol, cost = match.groups()
            share = _number(text, number) / (100 if symbol == "%" else 1)
            name = cost or "flops"
            registry.lookup("costs", name)
            return cls(text, name, _checked_share(text, sign, symbol, share), True)
        if match := _AMOUNT.fullmatch(stripped):
            sign, number, prefix, unit = match.groups()
            amount = _spent(text, sign, number) * PREFIXES[prefix]
            return cls(text, _cost_in(unit or "FLOPs", text), amount, False)
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
    costs = space.costs(cost, samples)
    floor = total_cost(cost, builders.vtw(space.num_layers, 0), samples)
    return Constraint(
        name=cost.name,
        unit=cost.unit,
        costs=costs,
        limit=limit,
        stock=stock,
        samples=len(samples),
        floor=floor,
    )


def total_cost(cost: Cost, policy: Policy, samples: Sequence[tuple[int, int]]) -> int:
    """Cost of one policy summed over samples of (visual, other) tokens."""
    pairs = Counter(samples).items()
    return sum(k * policy_cost(cost, policy, n, t) for (n, t), k in pairs)


def _cost_in(unit: str, text: str) -> str:
    """Return the name of the cost that is counted in this unit."""
    units = {cost.unit: name for name, cost in reversed(registry.registered("costs").items())}
    if unit not in units:
        raise _error(text, f"has a unit that no cost has: {unit!r}, not {', '.join(sorted(units))}")
    return units[unit]


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
