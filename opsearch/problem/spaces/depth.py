"""Spaces `tokens`, `dop` and `depth`: a depth per module and one share of the tokens.

`dop` ties depths as its paper does; `tokens` keeps all layers. Only distinct policies are listed:
among points with the same live operations, the one with the largest depths.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, partial
from typing import ClassVar, get_args

import numpy as np
from numpy.typing import NDArray

from opsearch.formatting import screen_repr
from opsearch.policy import builders
from opsearch.policy.counts import MLP, Counts, resolve_fraction
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec
from opsearch.problem.spaces.base import N_V_16, ListedSpace, Parameter, SpaceSettings, unpruned


@dataclass(frozen=True)
class DepthSpace(ListedSpace):
    """A depth per module and a share of the tokens.

    Attributes:
        name: Name of the space.
        num_layers: Number of decoder layers.
        parameters: Depths, with values 0 to L; the last parameter is the share of tokens, n_v.
        depths: Column of the depth of q, kv and mlp; None: all layers.
        build: Returns the policy of parameter values.
    """

    name: str
    num_layers: int
    parameters: tuple[Parameter, ...]
    depths: tuple[int | None, int | None, int | None]
    build: Callable[..., Policy]
    most_counts: ClassVar[int] = 1  # n_v, in every operation that is not pruned

    __repr__ = screen_repr

    @property
    def layer_columns(self) -> tuple[int, ...]:
        """Columns of a point that contain a layer."""
        return tuple(sorted({column for column in self.depths if column is not None}))

    @cached_property
    def points(self) -> NDArray[np.int64]:
        """Rows of distinct policies in lexicographic order, int64[P, K]."""
        sizes = [len(parameter.values) for parameter in self.parameters]
        box = np.indices(sizes).reshape(len(sizes), -1).T[::-1]
        columns = self.live_depths(box).T
        columns[-1] += 1  # from -1, where nothing is read
        most = (*(self.num_layers + 1,) * 3, sizes[-1] + 1)
        # One number per row sorts much faster than the rows.
        _, largest = np.unique(np.ravel_multi_index(tuple(columns), most), return_index=True)
        return np.ascontiguousarray(box[np.sort(largest)[::-1]], np.int64)

    def decode(self, point: Sequence[int]) -> Policy:
        """Return the policy of a row of value indices."""
        row = self._pruning(np.array([point], np.int64))[0].tolist()
        values = (p.values[i] for p, i in zip(self.parameters, row, strict=True))
        return self.build(*values)

    def index_of(self, point: Sequence[int]) -> int:
        """Return the number of the point whose policy equals that of a row of value indices."""
        return self._rows[tuple(self.live_depths(np.array([point]))[0].tolist())]

    def resolved(self, points: NDArray[np.int64], n_visual: int) -> Counts:
        """Return the counts of points on a sample of `n_visual` tokens, int64[P, L, 3]."""
        points = self._pruning(points)
        shares = [resolve_fraction(n_v, n_visual) for n_v in self.parameters[-1].values]
        kept = np.array(shares, np.int64)[points[:, -1]]
        layer = np.arange(self.num_layers)
        below = layer[None, :, None] < self._depths_of(points)[:, None, :]
        return np.where(below, kept[:, None, None], 0)

    def rerankings(self, points: NDArray[np.int64], n_visual: int) -> None:
        """Return None: no policy of the space ranks inside the decoder."""

    def _pruning(self, points: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows, with the original's replaced by the same without its dead last MLP.

        A policy that prunes nothing runs as the stock model, which includes dead operations.
        """
        column = self.depths[MLP]
        if column is None:
            return points
        rows = points.copy()
        rows[(points == unpruned(self)).all(axis=1), column] -= 1
        return rows

    @cached_property
    def _rows(self) -> dict[tuple[int, ...], int]:
        return {tuple(d): row for row, d in enumerate(self.live_depths(self.points).tolist())}

    def _depths_of(self, points: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return (d_q, d_kv, d_mlp) of rows, int64[P, 3]."""
        everything = np.full(len(points), self.num_layers)
        return np.stack([everything if c is None else points[:, c] for c in self.depths], axis=1)

    def live_depths(self, points: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return live depths and the index of n_v, int64[P, 4], which identify a policy."""
        d_q, d_kv, d_mlp = self._depths_of(points).T
        read = np.maximum(d_kv - 1, 0)
        n_v = np.where(d_kv > 0, points[:, -1], -1)
        return np.stack([np.minimum(d_q, read), d_kv, np.minimum(d_mlp, read), n_v], axis=1)


class Tokens:
    """One share of the visual tokens, n_v, in all layers."""

    options: ClassVar[frozenset[str]] = frozenset()
    ranks_inside: ClassVar[bool] = False

    @staticmethod
    def from_settings(settings: SpaceSettings) -> DepthSpace:
        """Return the space of these settings."""
        return tokens_space(settings.num_layers, settings.n_v, settings.ranker)


class Dop:
    """One depth of attention, one of the MLPs, and a share: (d_attn, d_mlp, n_v)."""

    options: ClassVar[frozenset[str]] = frozenset()
    ranks_inside: ClassVar[bool] = False

    @staticmethod
    def from_settings(settings: SpaceSettings, kv: builders.KVReading | None = None) -> DepthSpace:
        """Return the space of these settings, in the reading `kv` where it is given."""
        reading = kv or settings.kv
        if reading not in get_args(builders.KVReading):
            raise TypeError(f"kv={reading} is not a reading of dop; use leaves or stays")
        return dop_space(settings.num_layers, settings.n_v, settings.ranker, reading)


class Depth:
    """Separate depths of q, kv and mlp, and a share: (d_q, d_kv, d_mlp, n_v)."""

    options: ClassVar[frozenset[str]] = frozenset()
    ranks_inside: ClassVar[bool] = False

    @staticmethod
    def from_settings(settings: SpaceSettings) -> DepthSpace:
        """Return the space of these settings."""
        return depth_space(settings.num_layers, settings.n_v, settings.ranker)


def tokens_space(
    layers: int, n_v: Sequence[Fraction] = N_V_16, ranker: RankerSpec | None = None
) -> DepthSpace:
    """Return the space of uniform token reduction, with one parameter, n_v."""
    build = partial(_build_tokens, layers, ranker)
    return DepthSpace("tokens", layers, (_shares(n_v),), (None, None, None), build)


def dop_space(
    layers: int,
    n_v: Sequence[Fraction] = N_V_16,
    ranker: RankerSpec | None = None,
    kv: builders.KVReading = "leaves",
) -> DepthSpace:
    """Return DOP's space (d_attn, d_mlp, n_v) in one reading of its paper (arXiv 2507.02909)."""
    parameters = (_depth("d_attn", layers), _depth("d_mlp", layers), _shares(n_v))
    depths = (0, 0 if kv == "leaves" else None, 1)
    return DepthSpace("dop", layers, parameters, depths, partial(_build_dop, layers, ranker, kv))


def depth_space(
    layers: int, n_v: Sequence[Fraction] = N_V_16, ranker: RankerSpec | None = None
) -> DepthSpace:
    """Return the space of separate depths: (d_q, d_kv, d_mlp, n_v)."""
    names = ("d_q", "d_kv", "d_mlp")
    parameters = (*(_depth(name, layers) for name in names), _shares(n_v))
    return DepthSpace("depth", layers, parameters, (0, 1, 2), partial(_build_depth, layers, ranker))


def _build_tokens(layers: int, ranker: RankerSpec | None, n_v: Fraction) -> Policy:
    return builders.tokens(layers, n_v, ranker)


def _build_dop(
    layers: int,
    ranker: RankerSpec | None,
    kv: builders.KVReading,
    d_attn: Fraction,
    d_mlp: Fraction,
    n_v: Fraction,
) -> Policy:
    return builders.dop(layers, int(d_attn), int(d_mlp), n_v, ranker, kv)


def _build_depth(
    layers: int,
    ranker: RankerSpec | None,
    d_q: Fraction,
    d_kv: Fraction,
    d_mlp: Fraction,
    n_v: Fraction,
) -> Policy:
    return builders.depth(layers, int(d_q), int(d_kv), int(d_mlp), n_v, ranker)


def _depth(name: str, layers: int) -> Parameter:
    return Parameter(name, tuple(Fraction(d) for d in range(layers + 1)))


def _shares(n_v: Sequence[Fraction]) -> Parameter:
    """Return the parameter n_v; it includes 1, which individual divergences need."""
    return Parameter("n_v", tuple(sorted({*n_v, Fraction(1)})))
