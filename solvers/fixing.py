"""Choices that no optimum makes, found before a program is built.

With a price on cost in place of its limit, and without liveness, a slice falls apart into single
parameters and pairs of them: the least of each, added up, is a bound from below (Everett, 1963).
What a choice adds to that bound at least, its reduced cost, rules it out where the sum is above the
value of a point at hand (Nemhauser and Wolsey, 1988, II.5). The price also leads to such a point.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from opsearch.problem import Problem
from opsearch.solvers.decompose import Ints, Slice
from opsearch.solvers.scaling import IntegerTerms

Floats = NDArray[np.float64]
Kept = list[NDArray[np.bool_]]  # per parameter, which of its options

_STEPS = 20  # of a bisection
_HIGHEST = 2.0**60  # price, times the first guess
_ROUNDING = 1e-9  # far above what sums of floats lose, far below what a choice costs


@dataclass(frozen=True, eq=False)
class _Block:
    """Parameters that do not depend on others, alone or two by two, in tables of equal size.

    parameters: int64[G, 1 or 2]; values: float[G, n] or [G, n, m]; costs: float[C, G, n, ...].
    """

    parameters: Ints
    values: Floats
    costs: Floats


@dataclass(frozen=True, eq=False)
class _Relaxed:
    """A slice as blocks, with the bound at the best price found for one of its costs.

    room: what the limit leaves for choices; row: the least at the lowest price found at which it
    keeps that limit.
    """

    blocks: tuple[_Block, ...]
    cost: int
    price: float
    bound: float
    room: float
    row: tuple[int, ...]


def without_hopeless(
    problem: Problem, slices: Sequence[Slice], terms: IntegerTerms
) -> tuple[list[Slice], tuple[int, ...] | None]:
    """The slices with only those choices that may be part of an optimum, and the point at hand.

    Slices that have none are left out. All come back as they were, and None, where more than two
    parameters are paired with each other, or where no price leads to a point within the budget.
    """
    limits = [constraint.limit for constraint in problem.constraints]
    best, known, relaxed = np.inf, None, []
    for part in slices:
        blocks = _blocks(part, terms)
        if blocks is None:
            return list(slices), None
        relaxed.append([_relaxed(part, blocks, c, limit) for c, limit in enumerate(limits)])
        for bounds in relaxed[-1]:
            row = _live(problem, bounds.row)
            if row is not None and (value := _value(terms, row)) < best:
                best, known = value, row
    if known is None:
        return list(slices), None
    reduced = (_reduced(part, bounds, best) for part, bounds in zip(slices, relaxed, strict=True))
    return [part for part in reduced if part is not None], known


def _live(problem: Problem, row: tuple[int, ...]) -> tuple[int, ...] | None:
    """The row without its dead operations, None where that is not within the budget."""
    index = problem.space.index_of(row)
    return problem.space.row(index) if problem.within(index) else None


def _value(terms: IntegerTerms, row: tuple[int, ...]) -> int:
    return sum(int(of[i]) for of, i in zip(terms.coefficients, row, strict=True))


def _blocks(part: Slice, terms: IntegerTerms) -> tuple[_Block, ...] | None:
    """None where a parameter is paired with several others."""
    together: dict[tuple[int, ...], Floats] = {}
    for ((k, i), (m, j)), effect in part.pairs.items():
        shape = (len(effect), len(part.options[k]), len(part.options[m]))
        table = together.setdefault((k, m), np.zeros(shape))
        table[:, np.searchsorted(part.options[k], i), np.searchsorted(part.options[m], j)] = effect
    paired = [k for pair in together for k in pair]
    if len(paired) != len(set(paired)):
        return None
    alone = set(range(len(part.options))) - set(paired)
    groups: dict[tuple[int, ...], list[tuple[tuple[int, ...], Floats, Floats]]] = defaultdict(list)
    for key in (*together, *((k,) for k in sorted(alone))):
        values = [terms.coefficients[k][part.options[k]].astype(float) for k in key]
        costs = [part.mains[k].astype(float) for k in key]
        value, cost = values[0], costs[0]
        if len(key) == 2:
            value = values[0][:, None] + values[1]
            cost = costs[0][:, :, None] + costs[1][:, None] + together[key]
        groups[value.shape].append((key, value, cost))
    return tuple(
        _Block(np.array(keys), np.stack(values), np.stack(costs, axis=1))
        for keys, values, costs in (zip(*group, strict=True) for group in groups.values())
    )


def _relaxed(part: Slice, blocks: tuple[_Block, ...], c: int, limit: int) -> _Relaxed:
    """The best bound that a price on cost `c` gives, by bisection."""
    room = float(limit - int(part.base[c]))
    low, high = 0.0, _first_price(blocks, c)
    highest = high * _HIGHEST
    while high < highest and _least(blocks, c, high)[1] > room:
        low, high = high, 2 * high
    bound, price = -np.inf, low
    for at in (low, high):
        bound, price = max((bound, price), (_least(blocks, c, at)[0] - at * room, at))
    for _ in range(_STEPS):
        middle = (low + high) / 2
        value, spent, _ = _least(blocks, c, middle)
        bound, price = max((bound, price), (value - middle * room, middle))
        low, high = (middle, high) if spent > room else (low, middle)
    row = np.empty(len(part.options), np.int64)
    for block, least in zip(blocks, _least(blocks, c, high)[2], strict=True):
        places = np.unravel_index(least, block.values.shape[1:])
        for column, place in zip(block.parameters.T, places, strict=True):
            row[column] = place
    options = zip(part.options, row, strict=True)
    return _Relaxed(blocks, c, price, bound, room, tuple(int(mine[i]) for mine, i in options))


def _least(blocks: tuple[_Block, ...], c: int, price: float) -> tuple[float, float, list[Ints]]:
    """Value with price of the row that is least at a price, its cost, its place in each table."""
    value, spent, places = 0.0, 0.0, []
    for block in blocks:
        costs = block.costs[c].reshape(len(block.parameters), -1)
        priced = block.values.reshape(costs.shape) + price * costs
        least = priced.argmin(axis=1)
        each = np.arange(len(least))
        value += float(priced[each, least].sum())
        spent += float(costs[each, least].sum())
        places.append(least)
    return value, spent, places


def _first_price(blocks: tuple[_Block, ...], c: int) -> float:
    """Value per cost of the widest tables."""
    value = sum(float(np.ptp(block.values)) for block in blocks)
    cost = sum(float(np.ptp(block.costs[c])) for block in blocks)
    return value / cost if value and cost else 1.0


def _reduced(part: Slice, relaxed: Sequence[_Relaxed], best: float) -> Slice | None:
    """The slice without what every bound rules out; None where nothing is left."""
    kept: Kept = [np.ones(len(options), bool) for options in part.options]
    for bounds in relaxed:
        added_up = abs(best) + abs(bounds.bound) + bounds.price * abs(bounds.room)
        slack = best - bounds.bound + 1 + _ROUNDING * added_up
        if slack < 0:
            return None
        for k, reduced in _reduced_costs(bounds):
            kept[k] &= reduced <= slack
    return _cut(part, kept)


def _reduced_costs(bounds: _Relaxed) -> Iterator[tuple[int, Floats]]:
    """For each parameter what each of its options adds to the bound at least."""
    for block in bounds.blocks:
        priced = block.values + bounds.price * block.costs[bounds.cost]
        size = priced.ndim - 1
        least = priced.reshape(len(priced), -1).min(axis=1, keepdims=True)
        for axis, column in enumerate(block.parameters.T):
            others = tuple(1 + other for other in range(size) if other != axis)
            yield from zip(column.tolist(), priced.min(axis=others) - least, strict=True)


def _cut(part: Slice, kept: Kept) -> Slice | None:
    """The slice with these options only."""
    if not all(mine.any() for mine in kept):
        return None
    options = tuple(o[mine] for o, mine in zip(part.options, kept, strict=True))
    there = {(k, i) for k, mine in enumerate(options) for i in mine.tolist()}
    return replace(
        part,
        options=options,
        mains=tuple(main[:, mine] for main, mine in zip(part.mains, kept, strict=True)),
        pairs={pair: effect for pair, effect in part.pairs.items() if there.issuperset(pair)},
        excluded=tuple(absent for absent in part.excluded if there.issuperset(absent)),
        needs=tuple(
            (choice, tuple(other for other in others if other in there))
            for choice, others in part.needs
            if choice in there
        ),
    )
