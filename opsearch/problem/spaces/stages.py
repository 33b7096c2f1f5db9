"""Space `stages`: each stage keeps a smaller share of the tokens from its layer on.

All tokens are processed before the first stage. One stage gives the space of FastV (ECCV 2024) and
VisPCO (arXiv 2604.15188); a last share of 0 is VTW (AAAI 2025); several stages contain the
schedules of PyramidDrop (CVPR 2025). The ranker acts before the decoder or, as in these methods,
inside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from itertools import combinations
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from opsearch.formatting import screen_repr
from opsearch.policy import builders
from opsearch.policy.counts import KV, MODULES, Counts, resolve_fraction
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec
from opsearch.policy.schedule import RerankingTable
from opsearch.problem.spaces.base import N_V_16, STAGES, ListedSpace, Parameter, SpaceSettings


@dataclass(frozen=True)
class StageSpace(ListedSpace):
    """First layer of each stage, `d_k`, and the share kept from there on, `n_k`.

    A stage prunes nothing if it begins after the last layer or keeps all tokens. Listed rows have
    rising layers and falling shares, and stages that prune nothing come last. Other rows are valid,
    too: each stage keeps at most its share from its layer on, so their order does not matter. A
    ranker inside the decoder reranks at each stage. If it reads the preceding layer, stages begin
    at the second layer or later.

    Attributes:
        num_layers: Number of decoder layers.
        shares: Values of n_k.
        stages: Largest number of stages.
        ranker: Ranker before or inside the decoder.
    """

    num_layers: int
    shares: tuple[Fraction, ...]
    stages: int
    ranker: RankerSpec | None
    name: ClassVar[str] = "stages"
    # A stage prunes only if both its layer and its share do.
    parameters_act_alone: ClassVar[bool] = False
    options: ClassVar[frozenset[str]] = frozenset()
    ranks_inside: ClassVar[bool] = True

    __repr__ = screen_repr

    @classmethod
    def from_settings(cls, settings: SpaceSettings) -> StageSpace:
        """Return the space of these settings."""
        return stages_space(settings.num_layers, settings.n_v, settings.ranker, settings.stages)

    @property
    def most_counts(self) -> int:
        """Largest number of different counts: one per stage."""
        return self.stages

    @property
    def inside(self) -> RankerSpec | None:
        """The ranker, if it acts inside the decoder."""
        return self.ranker if self.ranker and self.ranker.inside else None

    @property
    def first(self) -> int:
        """First layer at which a stage can begin."""
        return self.inside.layers_back if self.inside else 0

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """Parameters (d_1, n_1, d_2, n_2, ...)."""
        layers = tuple(Fraction(layer) for layer in range(self.num_layers + 1))
        return tuple(
            parameter
            for k in range(1, self.stages + 1)
            for parameter in (Parameter(f"d_{k}", layers), Parameter(f"n_{k}", self.shares))
        )

    @property
    def layer_columns(self) -> tuple[int, ...]:
        """Columns of a point that contain a layer."""
        return tuple(range(0, 2 * self.stages, 2))

    @cached_property
    def points(self) -> NDArray[np.int64]:
        """Rows of distinct policies in lexicographic order, int64[P, 2 K]."""
        blocks = []
        most = min(self.stages, self.num_layers - self.first, len(self.shares) - 1)
        for used in range(most + 1):
            layers = self.first + _subsets(self.num_layers - self.first, used)
            shares = _subsets(len(self.shares) - 1, used)[:, ::-1]
            block = np.tile(np.array(self._unused, np.int64), (len(layers) * len(shares), 1))
            block[:, 0 : 2 * used : 2] = np.repeat(layers, len(shares), axis=0)
            block[:, 1 : 2 * used : 2] = np.tile(shares, (len(layers), 1))
            blocks.append(block)
        rows = np.concatenate(blocks)
        return rows[np.argsort(self._places(rows))]

    def decode(self, point: Sequence[int]) -> Policy:
        """Return the policy of a row of value indices."""
        begun = {layer: self.shares[share] for layer, share in self._pruning(point)}
        policy = builders.stages(self.num_layers, {0: Fraction(1)} | begun, self.ranker)
        if self.inside is None:
            return policy
        rankers = tuple((layer, self.inside) for layer, share in begun.items() if share)
        return replace(policy, rankers=rankers)

    def index_of(self, point: Sequence[int]) -> int:
        """Return the number of the point whose policy equals that of a row of value indices."""
        used = [index for stage in self._pruning(point) for index in stage]
        row = np.array([[*used, *self._unused[len(used) :]]])
        return int(np.searchsorted(self._listed, self._places(row))[0])

    def resolved(self, points: NDArray[np.int64], n_visual: int) -> Counts:
        """Return the counts of points on a sample of `n_visual` tokens, int64[P, L, 3]."""
        kept = np.array([resolve_fraction(share, n_visual) for share in self.shares], np.int64)
        layer = np.arange(self.num_layers)
        counts = np.full((len(points), self.num_layers), n_visual)
        for begins, share in zip(points.T[::2], points.T[1::2], strict=True):
            begun = layer >= np.maximum(begins, self.first)[:, None]
            stage = np.where(begun, kept[share][:, None], n_visual)
            counts = np.minimum(counts, stage)
        return np.repeat(counts[:, :, None], len(MODULES), axis=2)

    def rerankings(self, points: NDArray[np.int64], n_visual: int) -> RerankingTable | None:
        """Return the rerankings inside the decoder at these points, one per stage."""
        if self.inside is None:
            return None
        kept = self.resolved(points, n_visual)[:, :, KV]
        before = np.column_stack([np.full(len(points), n_visual), kept[:, :-1]])
        candidates = np.where((kept < before) & (kept > 0), before, 0)
        # No layer updates a part of its candidates, so an order holds from the layer that it reads.
        candidates = np.roll(candidates, -self.first, axis=1)
        if not candidates.any():
            return None
        return RerankingTable(
            (self.inside,), np.where(candidates, 0, -1), candidates, np.zeros_like(candidates)
        )

    def _pruning(self, point: Sequence[int]) -> list[tuple[int, int]]:
        """Return (layer, index of share) of the stages that prune, by layer."""
        if len(point) != 2 * self.stages:
            raise ValueError(f"a point of {self.stages} stages has {2 * self.stages} values")
        found: list[tuple[int, int]] = []
        least = len(self.shares) - 1
        begins = np.maximum(point[::2], self.first).tolist()
        for layer, share in sorted(zip(begins, point[1::2], strict=True)):
            if layer < self.num_layers and share < least:
                found.append((int(layer), int(share)))
                least = share
        return found

    @property
    def _unused(self) -> tuple[int, ...]:
        """Row in which no stage prunes."""
        return tuple(size - 1 for size in self._sizes)

    @property
    def _sizes(self) -> tuple[int, ...]:
        return tuple(len(parameter.values) for parameter in self.parameters)

    @cached_property
    def _listed(self) -> NDArray[np.int64]:
        return self._places(self.points)

    def _places(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the index of each row among all rows in lexicographic order, int64[P]."""
        return np.asarray(np.ravel_multi_index(tuple(rows.T), self._sizes), np.int64)


def stages_space(
    layers: int,
    n_v: Sequence[Fraction] = N_V_16,
    ranker: RankerSpec | None = None,
    stages: int = STAGES,
) -> StageSpace:
    """Return the space of falling shares from given layers on: (d_1, n_1, d_2, n_2, ...)."""
    shares = tuple(sorted({*n_v, Fraction(0), Fraction(1)}))
    return StageSpace(layers, shares, stages, ranker)


def _subsets(size: int, members: int) -> NDArray[np.int64]:
    """Return all ascending subsets of range(size) with `members` elements, int64[W, members]."""
    ways = list(combinations(range(size), members))
    return np.array(ways, np.int64).reshape(len(ways), members)
