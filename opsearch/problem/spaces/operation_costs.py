"""Exact costs in spaces with one parameter per operation.

With few levels they are tables per layer, as integer programs need them; with many, the counts of
each point are counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
from numpy.typing import NDArray

from opsearch.costs.base import Cost
from opsearch.costs.exact import Integers, weighted_sum
from opsearch.errors import OpsearchError
from opsearch.formatting import screen_repr
from opsearch.policy.counts import KV, MODULES, resolve_fraction
from opsearch.problem.spaces.base import PerOperation, unpruned

_CHECKED = 16  # rows on which the sum is compared with the cost itself


@dataclass(frozen=True, eq=False)
class OperationCosts:
    """Cost of points: a base, plus one table entry per layer.

    Attributes:
        space: The space.
        base: Cost with all visual tokens pruned.
        tables: Added cost of the levels of a layer, exact integers [n_v, L, q, kv, mlp]; 0 at
            level 0 of all three. Points contain no dead operations.
    """

    space: PerOperation
    base: int
    tables: Integers

    __repr__ = screen_repr

    def __getitem__(self, index: int) -> int:
        """Return the cost of a point."""
        row = self.space.row(index)
        levels = self.space.live_levels(row)
        tables = self.tables[row[-1]]
        return self.base + sum(
            int(tables[layer][tuple(of_layer)]) for layer, of_layer in enumerate(levels)
        )

    def cheapest(self) -> int:
        """Return the number of a cheapest point; more tokens never cost less."""
        return self.space.index_of([0] * len(self.space.parameters))

    def dearest(self) -> int:
        """Return the number of the point that prunes nothing."""
        return self.space.index_of(unpruned(self.space))


@dataclass(frozen=True, eq=False)
class CountedCosts:
    """Cost of points, counted when it is asked for.

    Attributes:
        space: The space.
        cost: The cost.
        pairs: Samples by their numbers of visual and other tokens.
    """

    space: PerOperation
    cost: Cost
    pairs: Counter[tuple[int, int]]

    __repr__ = screen_repr

    def __getitem__(self, index: int) -> int:
        """Return the cost of a point."""
        row = self.space.row(index)
        levels = self.space.live_levels(row)
        counts = {n: tokens[row[-1]][levels] for n, tokens in self._tokens.items()}
        return sum(k * int(self.cost.of(counts[n], n, t, None)) for (n, t), k in self.pairs.items())

    @cached_property
    def _tokens(self) -> dict[int, NDArray[np.int64]]:
        """Tokens of each level by the number of visual tokens, int64[n_v, levels] each."""
        levels, shares = self.space.levels, self.space.shares
        return {
            n: np.array([[resolve_fraction(x * n_v, n) for x in levels] for n_v in shares])
            for n in {n for n, _ in self.pairs}
        }

    def cheapest(self) -> int:
        """Return the number of a cheapest point; more tokens never cost less."""
        return self.space.index_of([0] * len(self.space.parameters))

    def dearest(self) -> int:
        """Return the number of the point that prunes nothing."""
        return self.space.index_of(unpruned(self.space))


def operation_costs(
    cost: Cost, space: PerOperation, samples: Sequence[tuple[int, int]]
) -> OperationCosts:
    """Tabulate a cost per layer, summed over samples of (visual, other) tokens.

    Raises:
        OpsearchError: The cost is not a sum over layers.
    """
    pairs = Counter(samples)
    base = sum(
        k * int(cost.of(np.zeros((space.num_layers, len(MODULES)), np.int64), n, t, None))
        for (n, t), k in pairs.items()
    )
    shape = (space.num_layers, *[len(space.levels)] * len(MODULES))

    def of_share(n_v: int) -> Integers:
        parts = ((k, _tables(cost, space, n_v, n, t)) for (n, t), k in pairs.items())
        return weighted_sum(parts, shape)

    tables = np.stack([of_share(n_v) for n_v in range(len(space.shares))])
    found = OperationCosts(space, base, tables)
    _check(cost, found, pairs)
    return found


def _tables(cost: Cost, space: PerOperation, n_v: int, n_visual: int, n_other: int) -> Integers:
    """Return the added cost of levels in each layer of one sample, [L, q, kv, mlp].

    It is read off policies whose last kv keeps all operations alive, and that run nothing else.
    """
    size, layers = len(space.levels), space.num_layers
    tokens = [resolve_fraction(level * space.shares[n_v], n_visual) for level in space.levels]
    states = np.array(list(product(tokens, repeat=len(MODULES))), np.int64)
    counts = np.zeros((layers, len(states), layers, len(MODULES)), np.int64)
    counts[..., -1, KV] = tokens[-1]
    for layer in range(layers - 1):
        counts[layer, :, layer] = states
    table = cost.of(counts, n_visual, n_other, None).reshape(layers, size, size, size)
    table = table - table[:, :1, :1, :1]
    table[-1] = _last(cost, tokens, layers, n_visual, n_other)[None, :, None]
    return np.asarray(table)


def _last(cost: Cost, tokens: Sequence[int], layers: int, n_visual: int, n_other: int) -> Integers:
    """Return the added cost of the levels of the last layer's kv, [levels]."""
    counts = np.zeros((len(tokens), layers, len(MODULES)), np.int64)
    counts[:, -1, KV] = tokens
    costs = cost.of(counts, n_visual, n_other, None)
    return np.asarray(costs - costs[0])


def _check(cost: Cost, found: OperationCosts, pairs: Counter[tuple[int, int]]) -> None:
    """Compare the sum with the cost on random rows and on the one that prunes nothing."""
    space = found.space
    random = np.random.default_rng(0)
    sizes = [len(parameter.values) for parameter in space.parameters]
    rows = [space.row(found.dearest()), *random.integers(0, sizes, (_CHECKED, len(sizes))).tolist()]
    for row in rows:
        index = space.index_of(row)
        point = np.array([space.row(index)], np.int64)
        costs = (
            k * int(cost.of(space.resolved(point, n), n, t, None)[0]) for (n, t), k in pairs.items()
        )
        if sum(costs) != found[index]:
            raise OpsearchError(
                f"cost {cost.name} is not a sum over layers, which space {space.name!r} requires; "
                "limit FLOPs or the KV cache, e.g. --budget 30%"
            )
