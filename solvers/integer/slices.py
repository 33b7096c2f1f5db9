"""Parts of a space on which an integer program can state costs and rules: the slices.

In a space with a choice per operation a slice is one share of tokens, n_v. With n_v fixed, a cost
is linear in the levels, except for the attention scores, which are a product of queries and keys of
the same layer. Liveness is a rule: queries and MLP need a later kv. Where one bit holds queries and
keys, the scores belong to that bit, but the last layer that is read runs no queries.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opsearch.costs.exact import Integers
from opsearch.errors import OpsearchError
from opsearch.policy.counts import KV, MODULES, Q
from opsearch.problem.objective import Choice, Pair
from opsearch.problem.problem import Problem
from opsearch.problem.spaces.base import PerOperation
from opsearch.problem.spaces.operation_costs import OperationCosts
from opsearch.solvers.integer.quantise import IntegerTerms

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class LinearForm:
    """A linear function of the choices and pairs of a row.

    Attributes:
        constant: The value of a row with none of the choices and pairs below.
        choices: Coefficient of each choice; 0 where missing, else positive.
        pairs: Coefficient of each pair, of either sign; 0 where missing.
    """

    constant: int
    choices: Mapping[Choice, int]
    pairs: Mapping[Pair, int]

    @property
    def floor(self) -> int:
        """A lower bound on the value of every row."""
        return self.constant + sum(min(effect, 0) for effect in self.pairs.values())

    def at(self, row: Sequence[int]) -> int:
        """Return the value at a row of value indices, one per parameter."""
        alone = sum(self.choices.get((k, i), 0) for k, i in enumerate(row))
        both = sum(c for ((k, i), (m, j)), c in self.pairs.items() if row[k] == i and row[m] == j)
        return self.constant + alone + both


@dataclass(frozen=True)
class Slice:
    """Rows of value indices that one integer program chooses from.

    Attributes:
        options: The value indices of each parameter that occur; one index where it is fixed.
        value: The objective in whole steps.
        costs: One form per constraint; none where `rows` are given, which keep all limits.
        excluded: Sets of choices that no row has together.
        needs: A choice, and others of which a row with that choice has at least one.
        rows: The only rows allowed, int64[R, K]; None for all combinations of options.
    """

    options: tuple[Ints, ...]
    value: LinearForm
    costs: tuple[LinearForm, ...] = ()
    excluded: tuple[tuple[Choice, ...], ...] = ()
    needs: tuple[tuple[Choice, tuple[Choice, ...]], ...] = ()
    rows: Ints | None = None

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The pairs that the objective or a cost depends on."""
        forms = (self.value, *self.costs)
        return tuple(dict.fromkeys(pair for form in forms for pair in form.pairs))

    @property
    def has_choices(self) -> bool:
        """True if the slice may have more than one row."""
        return any(len(options) > 1 for options in self.options)

    def holds(self, row: Sequence[int] | None) -> bool:
        """Return whether the slice has the value indices of a row and does not exclude it."""
        return (
            row is not None
            and all(i in options for i, options in zip(row, self.options, strict=True))
            and not any(all(row[k] == i for k, i in absent) for absent in self.excluded)
        )


def slices_of(problem: Problem, terms: IntegerTerms) -> list[Slice]:
    """Return slices that together cover the points of a problem.

    Args:
        problem: The problem; its budgets and excluded points hold in the slices.
        terms: Its objective in integers.

    Raises:
        OpsearchError: A cost has no linear form in this space.
    """
    operations = problem.space.per_operation
    if operations is not None:
        return _layer_slices(problem, operations, terms)
    rows = problem.space.points[problem.feasible]
    options = tuple(np.unique(column) for column in rows.T)
    return [Slice(options, _value(terms, options), rows=rows)]


def _value(terms: IntegerTerms, options: Sequence[Ints]) -> LinearForm:
    """Return the objective in whole steps."""
    columns = zip(terms.coefficients, options, strict=True)
    present = {(k, int(i)) for k, indices in enumerate(options) for i in indices}
    pairs = {pair: effect for pair, effect in terms.pairs.items() if present.issuperset(pair)}
    return _linear(options, [term[indices] for term, indices in columns], 0, pairs)


def _linear(
    options: Sequence[Ints], effects: Sequence[Integers], constant: int, pairs: Mapping[Pair, int]
) -> LinearForm:
    """Return the form with the smallest effect of each parameter moved into the constant.

    Exactly one option per parameter holds, so that this changes no value.
    """
    choices = {}
    for k, (indices, mine) in enumerate(zip(options, effects, strict=True)):
        smallest = int(mine.min())
        constant += smallest
        for i, effect in zip(indices.tolist(), mine.tolist(), strict=True):
            if effect != smallest:
                choices[k, i] = effect - smallest
    return LinearForm(constant, choices, pairs)


def _layer_slices(problem: Problem, space: PerOperation, terms: IntegerTerms) -> list[Slice]:
    """Return the slices of each share of tokens."""
    costs = [c.costs for c in problem.constraints if isinstance(c.costs, OperationCosts)]
    absent = [tuple(enumerate(space.row(index))) for index in sorted(problem.excluded)]
    needs = tuple(_needs(space))
    slices = []
    for n_v in range(len(space.shares)):
        excluded = [row for row in absent if row[-1][1] == n_v]
        options = [np.arange(len(parameter.values)) for parameter in space.parameters[:-1]] + [
            np.array([n_v])
        ]
        forms = [_cost(space, cost, n_v, options) for cost in costs]
        if space.tied and not space.kept:
            # Without any kv there are no dead queries to take off: a slice of this one row.
            alone = [np.zeros(1, np.int64) for _ in space.operations] + [np.array([n_v])]
            nothing = tuple(LinearForm(cost.base, {}, {}) for cost in costs)
            row = tuple(enumerate([0] * len(space.operations) + [n_v]))
            if row not in excluded:
                slices.append(Slice(tuple(alone), _value(terms, alone), nothing))
            excluded.append(
                tuple((k, 0) for k, (_, module) in enumerate(space.operations) if module == KV)
            )
        slices.append(
            Slice(tuple(options), _value(terms, options), tuple(forms), tuple(excluded), needs)
        )
    return slices


def _cost(
    space: PerOperation, cost: OperationCosts, n_v: int, options: Sequence[Ints]
) -> LinearForm:
    """Return a cost of the rows with one share of tokens; tied, of those with some kv."""
    tables = cost.tables[n_v]
    effects: list[Integers] = []
    for layer, module in space.operations:
        levels = np.arange(space.lowest(layer, module), len(space.levels))
        moved = (module, Q) if space.tied and module == KV else (module,)
        q, kv, mlp = (levels if m in moved else 0 for m in range(len(MODULES)))
        effects.append(tables[layer, q, kv, mlp])
    effects.append(np.zeros(1, np.int64))
    base = cost.base
    if space.tied:
        dead = _dead_queries(tables)
        last = space.num_layers - 1, KV
        number = space.operations.index(last)
        levels = np.arange(space.lowest(*last), len(space.levels)).astype(tables.dtype)
        effects[number] = effects[number] + dead * levels
        base -= dead
    return _linear(options, effects, base, dict(_score_pairs(space, tables)))


def _dead_queries(tables: Integers) -> int:
    """Return the cost of the queries of the last layer that is read, which do not run.

    They cost the same in every layer except the last of the decoder, where none are counted.
    """
    queries = tables[:-1, 1, 1, 0] - tables[:-1, 0, 1, 0]
    if (queries != queries[:1]).any():
        raise OpsearchError(
            "a cost differs between layers, so that tied queries have no integer program; "
            "leave out --tie"
        )
    return int(queries[0]) if len(queries) else 0


def _score_pairs(space: PerOperation, tables: Integers) -> Iterator[tuple[Pair, int]]:
    """Yield what queries and keys of a layer cost together, beyond what each costs alone."""
    number = {operation: k for k, operation in enumerate(space.operations)}
    alone = tables[:, :, :1, :1] + tables[:, :1, :, :1] + tables[:, :1, :1, :]
    together = tables - alone
    if (together != together[..., :1]).any():
        raise OpsearchError(
            f"a cost couples the MLP of a layer with its attention, so that space {space.name!r} "
            "has no integer program; limit FLOPs or the KV cache, e.g. --budget 30%"
        )
    for layer in range(0 if space.tied else space.num_layers - 1):
        scores = together[layer, space.lowest(layer, Q) :, space.lowest(layer, KV) :, 0]
        for i, j in np.argwhere(scores).tolist():
            yield ((number[layer, Q], i), (number[layer, KV], j)), int(scores[i, j])


def _needs(space: PerOperation) -> Iterator[tuple[Choice, tuple[Choice, ...]]]:
    """Yield the rules of liveness.

    Queries or MLP at a level need a later kv at that level or above; where queries and keys are
    tied, the kept queries do.
    """
    for k, (layer, module) in enumerate(space.operations):
        if module == KV and not (space.tied and (layer, Q) in space.kept):
            continue
        for level in range(max(space.lowest(layer, module), 1), len(space.levels)):
            readers = tuple(
                (m, kv_level - space.lowest(*later))
                for m, later in enumerate(space.operations)
                if later[0] > layer and later[1] == KV
                for kv_level in range(max(level, space.lowest(*later)), len(space.levels))
            )
            yield (k, level - space.lowest(layer, module)), readers
