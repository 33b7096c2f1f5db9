"""Integer programs of the spaces with a choice per operation: one slice per share of tokens.

With n_v fixed the cost is linear in the levels but for the attention scores, which are a product of
queries and keys of the same layer. Liveness is a rule: queries and MLP need a later kv. Where one
bit holds queries and keys the scores are its own, but the last layer that is read runs no queries.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from opsearch.errors import OpsearchError
from opsearch.layer_costs import LayerCosts
from opsearch.layer_space import LayerSpace
from opsearch.policy import KV, MODULES, Q
from opsearch.problem import Choice, Pair
from opsearch.solvers.decompose import Ints, Slice, single

Needs = tuple[tuple[Choice, tuple[Choice, ...]], ...]


def layer_slices(space: LayerSpace, costs: Sequence[LayerCosts]) -> list[Slice]:
    """Slices for each share of tokens, with all points of the space that have it.

    Raises OpsearchError for a cost that no such program can hold.
    """
    needs = tuple(_needs(space))
    shares = range(len(space.shares))
    return [part for n_v in shares for part in _slices(space, costs, needs, n_v)]


def _slices(
    space: LayerSpace, costs: Sequence[LayerCosts], needs: Needs, n_v: int
) -> Iterator[Slice]:
    shape = (len(costs), space.num_layers, *[len(space.levels)] * 3)
    tables = np.array([cost.tables[n_v] for cost in costs], np.int64).reshape(shape)
    mains, options = [], []
    for layer, module in space.operations:
        levels = np.arange(space.lowest(layer, module), len(space.levels))
        moved = (module, Q) if space.tied and module == KV else (module,)
        q, kv, mlp = (levels if m in moved else 0 for m in range(len(MODULES)))
        mains.append(tables[:, layer, q, kv, mlp])
        options.append(np.arange(len(levels)))
    mains.append(np.zeros((len(costs), 1), np.int64))
    options.append(np.array([n_v]))
    base = np.array([cost.base for cost in costs], np.int64)
    pairs = dict(_pairs(space, tables))
    whole = Slice(tuple(options), base, tuple(mains), pairs, (), needs)
    yield from _without_dead_queries(space, whole, tables) if space.tied else (whole,)


def _without_dead_queries(space: LayerSpace, whole: Slice, tables: Ints) -> Iterator[Slice]:
    """The slice less the queries of the last layer that is read, and the point without any.

    They cost the same in every layer but the decoder's last, where none were counted.
    """
    queries = tables[:, :-1, 1, 1, 0] - tables[:, :-1, 0, 1, 0]
    if (queries != queries[:, :1]).any():
        raise OpsearchError(
            "a cost differs between layers, so that tied queries have no integer program; "
            "leave out --tie"
        )
    dead = queries.sum(axis=1) // max(space.num_layers - 1, 1)
    end = space.num_layers - 1, KV
    last = space.operations.index(end)
    mains = list(whole.mains)
    mains[last] = mains[last] + dead[:, None] * (whole.options[last] + space.lowest(*end))
    unread: tuple[Choice, ...] = ()
    if not space.kept:
        unread = tuple((k, 0) for k, (_, module) in enumerate(space.operations) if module == KV)
        yield single(np.array([0] * len(space.operations) + whole.options[-1].tolist()), whole.base)
    yield replace(
        whole, base=whole.base - dead, mains=tuple(mains), excluded=(unread,) if unread else ()
    )


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
    for layer in range(0 if space.tied else space.num_layers - 1):
        lowest = space.lowest(layer, Q), space.lowest(layer, KV)
        scores = together[:, layer, lowest[0] :, lowest[1] :, 0]
        for i, j in np.argwhere(scores.any(axis=0)).tolist():
            yield ((place[layer, Q], i), (place[layer, KV], j)), scores[:, i, j]


def _needs(space: LayerSpace) -> Iterator[tuple[Choice, tuple[Choice, ...]]]:
    """Queries or MLP at a level need a later kv at that level or above; of tied ones the kept."""
    for k, (layer, module) in enumerate(space.operations):
        if module == KV and not (space.tied and (layer, Q) in space.kept):
            continue
        for level in range(max(space.lowest(layer, module), 1), len(space.levels)):
            readers = tuple(
                (m, place - space.lowest(*later))
                for m, later in enumerate(space.operations)
                if later[0] > layer and later[1] == KV
                for place in range(max(level, space.lowest(*later)), len(space.levels))
            )
            yield (k, level - space.lowest(layer, module)), readers
