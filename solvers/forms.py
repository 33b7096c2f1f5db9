"""Linear forms over the choices of a slice: the objective, a cost, the rank of an index row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from opsearch.problem import Choice, Pair
from opsearch.solvers.decompose import Ints, Slice
from opsearch.solvers.scaling import IntegerTerms


@dataclass(frozen=True)
class Linear:
    """constant + the sum of the coefficients of the choices and pairs that a row of indices has."""

    constant: int
    choices: Mapping[Choice, int]
    pairs: Mapping[Pair, int]

    @property
    def floor(self) -> int:
        """A value that no row is below."""
        return self.constant + sum(min(effect, 0) for effect in self.pairs.values())

    def at(self, row: Sequence[int]) -> int:
        """The value at a row of value indices, one per parameter."""
        mains = sum(self.choices.get((k, i), 0) for k, i in enumerate(row))
        both = sum(c for ((k, i), (m, j)), c in self.pairs.items() if row[k] == i and row[m] == j)
        return self.constant + mains + both


FormOf = Callable[[Slice], Linear]


def value_form(terms: IntegerTerms) -> FormOf:
    """The objective in whole steps."""

    def of(part: Slice) -> Linear:
        columns = zip(terms.coefficients, part.options, strict=True)
        mains = [term[options] for term, options in columns]
        pairs = {pair: terms.pairs[pair] for pair in part.pairs if terms.pairs.get(pair)}
        return _linear(part, mains, 0, pairs)

    return of


def cost_form(c: int) -> FormOf:
    """Cost number `c` of the slice, exactly."""

    def of(part: Slice) -> Linear:
        pairs = {pair: int(effect[c]) for pair, effect in part.pairs.items() if effect[c]}
        return _linear(part, [main[c] for main in part.mains], int(part.base[c]), pairs)

    return of


def rank_form(sizes: Sequence[int]) -> FormOf:
    """The place of an index row in lexicographic order among all rows with these sizes."""
    strides = [prod(sizes[k + 1 :]) for k in range(len(sizes))]

    def of(part: Slice) -> Linear:
        columns = zip(strides, part.options, strict=True)
        return _linear(part, [stride * options for stride, options in columns])

    return of


def _linear(
    part: Slice, mains: Sequence[Ints], constant: int = 0, pairs: Mapping[Pair, int] | None = None
) -> Linear:
    """The form with the smallest effect of each parameter made 0.

    Exactly one option per parameter holds, so the smallest effects belong to the constant.
    """
    choices = {}
    for k, (options, effects) in enumerate(zip(part.options, mains, strict=True)):
        smallest = int(effects.min())
        constant += smallest
        for option, effect in zip(options, effects, strict=True):
            if effect != smallest:
                choices[k, int(option)] = int(effect) - smallest
    return Linear(constant, choices, pairs or {})
