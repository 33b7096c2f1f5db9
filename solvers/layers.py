"""Integer programs of the spaces with a choice per operation: one slice per share of tokens.

With n_v fixed the cost is linear in the levels but for the attention scores, which are a product of
queries and keys of the same layer. Liveness is a rule: queries and MLP need a later kv.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from opsearch.errors import OpsearchError
from opsearch.layer_costs import LayerCosts
from opsearch.layer_space import LayerSpace
from opsearch.policy import KV, Q
from opsearch.problem import Choice, Pair
from opsearch.solvers.decompose import Ints, Slice


def layer_slices(space: LayerSpace, costs: Sequence[LayerCosts]) -> list[Slice]:
    """A slice for each share of tokens, with all points of the space that have it.

    Raises OpsearchError for a cost that no such program can hold.
    """
    needs = tuple(_needs(space))
    return [_slice(space, costs, needs, n_v) for n_v in range(len(space.shares))]


def _slice(
    space: LayerSpace,
    costs: Sequence[LayerCosts],
    needs: tuple[tuple[Choice, tuple[Choice, ...]], ...],
    n_v: int,
) -> Slice:
    shape = (len(costs), space.num_layers, *[len(space.levels)] * 3)
    tables = np.array([cost.tables[n_v] for cost in costs], np.int64).reshape(shape)
    mains, options = [], []
    for layer, module in space.operations:
        index: list[int | slice] = [slice(None), layer, 0, 0, 0]
        index[2 + module] = slice(space.lowest(layer, module), None)
        mains.append(tables[tuple(index)])
        options.append(np.arange(mains[-1].shape[1]))
    mains.append(np.zeros((len(costs), 1), np.int64))
    options.append(np.array([n_v]))
    base = np.array([cost.base for cost in costs], np.int64)
    pairs = dict(_pairs(space, tables))
    return Slice(tuple(options), base, tuple(mains), pairs, (), needs)


def _pairs(space: LayerSpace, tables: Ints) -> Iterator[tuple[Pair, Ints]]:
    """What queries and keys of a layer cost together, beyond what each does alone."""
    place = {operation: k for k, operation in enumerate(space.operations)}
    alone = tables[..., :1, :1] + tables[..., :1, :, :1] + tables[..., :1, :1, :]
    together = tables - alone
    if (together != together[..., :1]).any():
        raise OpsearchError(
            f"a cost couples the MLP of a layer with its attention, so that space {space.name!r} "
            "has no integer program; limit FLOPs or the KV cache, e.g. --budget 30%"
        )
    for layer in range(space.num_layers - 1):
        lowest = space.lowest(layer, Q), space.lowest(layer, KV)
        scores = together[:, layer, lowest[0] :, lowest[1] :, 0]
        for i, j in np.argwhere(scores.any(axis=0)).tolist():
            yield ((place[layer, Q], i), (place[layer, KV], j)), scores[:, i, j]


def _needs(space: LayerSpace) -> Iterator[tuple[Choice, tuple[Choice, ...]]]:
    """Queries or MLP at a level need a later kv at that level or above."""
    for k, (layer, module) in enumerate(space.operations):
        if module == KV:
            continue
        for level in range(max(space.lowest(layer, module), 1), len(space.levels)):
            readers = tuple(
                (m, place - space.lowest(*later))
                for m, later in enumerate(space.operations)
                if later[0] > layer and later[1] == KV
                for place in range(max(level, space.lowest(*later)), len(space.levels))
            )
            yield (k, level - space.lowest(layer, module)), readers
