"""Budgets: from text to an exact limit on the cost of every policy of a space.

A budget is a share of the stock model's cost (`30%`, `-70%`, `0.3x`; of its KV cache: `30% kv`) or
a mean per sample (`5.8T` FLOPs of the decoder, `9T prefill` with the vision tower, `200MB` of KV
cache, `120ms` of prefill; k, M, G, T, P, E are powers of 1000). All arithmetic is in integers and
exact fractions.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from typing import Any

from opsearch import registry
from opsearch.costs.base import (
    DEFAULT_COST,
    Cost,
    SampleSize,
    SampleSizes,
    at_full_size,
    budget_suffix,
    image_cost,
    policy_cost,
    stock_cost,
    total_image_flops,
)
from opsearch.costs.flops import Flops
from opsearch.costs.prefill import Prefill
from opsearch.errors import OpsearchError, echo
from opsearch.formatting import PREFIXES, format_amount, parse_number
from opsearch.policy import builders
from opsearch.policy.policy import Policy
from opsearch.problem.constraint import Constraint, Vision
from opsearch.problem.image_costs import with_images
from opsearch.problem.spaces.base import Space

EXAMPLES = "30%, -70%, 0.3x, 5.8T, 812M FLOPs, 50% prefill, 9T prefill, 200MB, 30% kv, 120ms"
_SHARE = re.compile(r"(-?)([\d.]+)\s*([%x])\s*([A-Za-z_][\w.-]*)?")
_AMOUNT = re.compile(r"(-?)([\d.]+)\s*([kMGTPE])\s*([A-Za-z]*)")
_TIME = re.compile(r"(-?)([\d.]+)\s*(us|ms|s)")
_NANOSECONDS = {"us": 10**3, "ms": 10**6, "s": 10**9}


@dataclass(frozen=True)
class Budget:
    """An upper limit on one cost.

    Attributes:
        text: The budget as typed.
        cost: Name of the cost.
        amount: Share of the stock model if `relative`, otherwise mean per sample.
        relative: True if the amount is a share of the stock model.
    """

    text: str
    cost: str
    amount: Fraction
    relative: bool

    @property
    def cost_class(self) -> Any:
        """Class of the cost; raises UnknownNameError if no cost has that name."""
        return registry.lookup("costs", self.cost)

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Parse a budget; raise OpsearchError with examples if the text is not one."""
        stripped = text.strip()
        if match := _SHARE.fullmatch(stripped):
            sign, number, symbol, cost = match.groups()
            share = _number(text, number) / (100 if symbol == "%" else 1)
            name = cost or DEFAULT_COST
            registry.lookup("costs", name)
            return cls(text, name, _checked_share(text, sign, symbol, share), True)
        if match := _AMOUNT.fullmatch(stripped):
            sign, number, prefix, unit = match.groups()
            amount = _spent(text, sign, number) * PREFIXES[prefix]
            return cls(text, _cost_in(unit, text) if unit else DEFAULT_COST, amount, False)
        if match := _TIME.fullmatch(stripped):
            sign, number, unit = match.groups()
            nanoseconds = _spent(text, sign, number) * _NANOSECONDS[unit]
            return cls(text, _cost_in("ns", text), nanoseconds, False)
        if meant := _meant(stripped):
            raise _error(text, f"has no unit (did you mean {meant}?)")
        raise _error(text, "is not a share of the stock model or an amount per sample")

    def limit(self, stock: int, samples: int) -> int:
        """Return the largest total cost within the budget.

        Args:
            stock: Total cost of the stock model on the samples.
            samples: Number of samples.
        """
        return floor(self.amount * (stock if self.relative else samples))


def constraint(budget: Budget, cost: Cost, space: Space, samples: SampleSizes) -> Constraint:
    """Return the budget as a limit on the cost of a point, summed over the samples.

    Args:
        budget: The budget.
        cost: The cost that it limits.
        space: The space.
        samples: The samples.

    Raises:
        OpsearchError: There are no samples, the stock model is within the budget, or the cost
            counts images whose FLOPs are not known.
    """
    if cost.name != budget.cost:
        raise OpsearchError(
            f"budget {echo(budget.text)} limits {budget.cost}, not {cost.name}; "
            "pass the cost that the budget limits"
        )
    if not samples:
        raise OpsearchError(f"budget {echo(budget.text)} needs at least one sample; give one")
    sizes = [SampleSize(*sample) for sample in samples]
    pairs = [(size.n_visual, size.n_other) for size in sizes]
    images = image_cost(cost, sizes)
    stock = stock_cost(cost, sizes)
    floor = total_cost(cost, builders.vtw(space.num_layers, 0), sizes)
    limit = budget.limit(stock, len(samples))
    if limit > stock:
        mean = format_amount(stock / len(samples), cost.unit)
        raise OpsearchError(
            f"budget {echo(budget.text)} prunes nothing: the stock model takes {mean} per sample; "
            f"use less, or a share such as {_usual_share(floor, stock)}{budget_suffix(cost.name)}"
        )
    costs = with_images(space.costs(cost, pairs), images)
    return Constraint(
        name=cost.name,
        unit=cost.unit,
        costs=costs,
        limit=limit,
        stock=stock,
        samples=len(samples),
        floor=floor,
        timed=cost.timed,
        vision=_vision(cost, sizes),
    )


def total_cost(cost: Cost, policy: Policy, samples: SampleSizes) -> int:
    """Return the cost of a policy summed over samples, with their images where the cost does.

    Raises:
        OpsearchError: The cost counts images whose FLOPs are not known.
    """
    sizes = [SampleSize(*sample) for sample in samples]
    pairs = Counter((size.n_visual, size.n_other) for size in sizes).items()
    decoder = sum(k * policy_cost(cost, policy, n, t) for (n, t), k in pairs)
    return image_cost(cost, sizes) + decoder


def _usual_share(floor: int, stock: int) -> str:
    """Return 30%, or a share half way from the floor to the stock model if that is too little."""
    share = ceil(50 * Fraction(floor + stock, stock))
    return "30%" if 100 * floor <= 30 * stock else f"{share}%"


def _vision(cost: Cost, sizes: Sequence[SampleSize]) -> Vision | None:
    """Return the FLOPs of the images next to a cost in FLOPs; None if they are not known."""
    if not isinstance(cost, Flops | Prefill):
        return None
    own, full = total_image_flops(sizes), total_image_flops(at_full_size(sizes))
    if own is None or full is None:
        return None
    return Vision(own, counted=isinstance(cost, Prefill), stock=None if full == own else full)


def _cost_in(unit: str, text: str) -> str:
    """Return the first cost that has this unit or this name; several costs are in FLOPs."""
    units = set()
    for name in registry.names("costs"):  # built-in ones first; others are loaded if they must be
        if name == unit:
            return name
        found = registry.lookup("costs", name).unit
        if found == unit:
            return name
        units.add(found)
    known = ", ".join([*sorted(units), *registry.names("costs")])
    raise _error(text, f"has an unknown unit {echo(unit)}; known units and costs are {known}")


def _meant(number: str) -> str | None:
    """Return the share that a number without a unit may mean; None if it is none."""
    if not re.fullmatch(r"[\d.]{1,10}", number):
        return None
    try:
        value = Fraction(number)
    except ValueError:
        return None
    percent = 100 * value if value <= 1 else value
    return f"{float(percent):.6g}%" if 0 < percent <= 100 else None


def _number(text: str, number: str) -> Fraction:
    try:
        return parse_number(number)
    except ValueError as error:
        raise _error(text, f"holds {echo(number)}, which {error}") from None


def _spent(text: str, sign: str, number: str) -> Fraction:
    """Return an amount per sample, above 0."""
    amount = _number(text, number)
    if sign or amount == 0:
        raise _error(text, "leaves nothing; an amount is a cost per sample above 0")
    return amount


def _checked_share(text: str, sign: str, symbol: str, share: Fraction) -> Fraction:
    """Return the share of the stock model that is left, above 0 and at most 1."""
    if sign and symbol == "x":
        raise _error(text, "is a negative factor; write the share that remains")
    if sign:
        share = 1 - share
    if share <= 0:
        raise _error(text, "leaves nothing, but the text tokens alone have a cost")
    if share > 1:
        raise _error(text, "prunes nothing, because it exceeds the stock model's cost")
    return share


def _error(text: str, reason: str) -> OpsearchError:
    return OpsearchError(f"budget {echo(text)} {reason}; use for example {EXAMPLES}")
