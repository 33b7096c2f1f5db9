"""The policies of many points of a space, and their canonical keys, computed from arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from json import dumps
from typing import overload

import numpy as np
from numpy.typing import NDArray

from opsearch.policy.counts import KV, MLP, Counts, Q, live
from opsearch.policy.policy import Policy
from opsearch.policy.schedule import RerankingTable
from opsearch.problem.spaces.base import POINTS_AT_ONCE, Space


class PointPolicies(Sequence[Policy]):
    """The policies of points of a space; each is decoded when it is taken.

    Attributes:
        space: The space of the points.
        points: Rows of value indices, int64[P, K].
    """

    def __init__(self, space: Space, points: NDArray[np.int64]) -> None:
        self.space, self.points = space, points

    def __len__(self) -> int:
        return len(self.points)

    @overload
    def __getitem__(self, index: int) -> Policy: ...
    @overload
    def __getitem__(self, index: slice) -> PointPolicies: ...
    def __getitem__(self, index: int | slice) -> Policy | PointPolicies:
        if isinstance(index, slice):
            return PointPolicies(self.space, self.points[index])
        return self.space.decode(self.points[index].tolist())

    def canonical(self, n_visual: int) -> list[str]:
        """Return `Policy.canonical` of every policy, computed from arrays."""
        blocks = (
            self.points[start : start + POINTS_AT_ONCE]
            for start in range(0, len(self.points), POINTS_AT_ONCE)
        )
        return [key for block in blocks for key in _block_keys(self.space, block, n_visual)]


def canonical_keys(policies: Sequence[Policy], n_visual: int) -> list[str]:
    """Return the canonical key of every policy for samples of `n_visual` tokens."""
    if isinstance(policies, PointPolicies):
        return policies.canonical(n_visual)
    return [policy.canonical(n_visual) for policy in policies]


def _block_keys(space: Space, points: NDArray[np.int64], n_visual: int) -> list[str]:
    rerankings = space.rerankings(points, n_visual)
    alive = live(
        space.resolved(points, n_visual), rerankings.candidates_by_layer if rerankings else None
    )
    rankers = _ranker_texts(space, points, alive, rerankings, n_visual)
    payloads = [
        f"[{n_visual}, [{counts}], {acting}]"
        for counts, acting in zip(_count_texts(alive), rankers, strict=True)
    ]
    keys = {payload: sha256(payload.encode()).hexdigest() for payload in set(payloads)}
    return [keys[payload] for payload in payloads]


def _count_texts(alive: Counts) -> list[str]:
    """Return the layers of each policy as JSON, without the outer brackets."""
    sizes = (int(alive.max(initial=0)) + 1,) * 3
    codes = np.ravel_multi_index((alive[..., Q], alive[..., KV], alive[..., MLP]), sizes)
    found = np.unique(codes)
    triples = zip(*(column.tolist() for column in np.unravel_index(found, sizes)), strict=True)
    named = [f"[{q}, {kv}, {mlp}]" for q, kv, mlp in triples]
    texts = dict(zip(found.tolist(), named, strict=True))
    return [", ".join([texts[code] for code in row]) for row in codes.tolist()]


def _ranker_texts(
    space: Space,
    points: NDArray[np.int64],
    alive: Counts,
    rerankings: RerankingTable | None,
    n_visual: int,
) -> list[str]:
    """Return the rankers that each policy's order depends on, as JSON."""
    partial = ((alive > 0) & (alive < n_visual)).any(axis=2)
    acting = rerankings.ranker >= 0 if rerankings else np.zeros_like(partial)
    first = np.arange(len(points)), acting.argmax(axis=1)
    # The order from before the decoder holds up to the first reranking, whose candidates it gives.
    kept = (partial & ~np.logical_or.accumulate(acting, axis=1)).any(axis=1)
    ordered_first = rerankings.candidates[first] if rerankings else np.int64(0)
    kept |= (ordered_first > 0) & (ordered_first < n_visual)
    before = space.decode(points[kept.argmax()].tolist()).rankers if kept.any() else ()
    ordered = {(layer, str(spec)) for layer, spec in before if layer == 0}
    tables = (
        (rerankings.ranker_layer, rerankings.ranker, rerankings.candidates) if rerankings else ()
    )
    rows, of_point = np.unique(np.column_stack([kept, *tables]), axis=0, return_inverse=True)
    specs = rerankings.specs if rerankings else ()
    texts = []
    for is_kept, *row in rows.tolist():
        named: set[tuple[int | str, ...]] = {
            (ranker_layer, str(specs[k]), layer, candidates)
            for layer, (ranker_layer, k, candidates) in enumerate(_by_layer(row))
            if k >= 0
        }
        texts.append(dumps(sorted(named | ordered if is_kept else named)))
    return [texts[k] for k in of_point.ravel().tolist()]


def _by_layer(row: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yield for each layer the ranker's layer, its index and the candidates of a reranking."""
    layers = len(row) // 3
    return zip(row[:layers], row[layers : 2 * layers], row[2 * layers :], strict=True)
