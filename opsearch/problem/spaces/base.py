"""The contract of a search space, and what listed spaces have in common."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, Literal, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from opsearch.costs.base import Cost
from opsearch.policy.counts import Counts
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec
from opsearch.policy.schedule import RerankingTable

Operation = tuple[int, int]
"""A decoder layer and a module of it."""

_PERCENT = (100, 90, 80, 70, 60, 50, 42, 36, 30, 25, 20, 16, 12, 9, 6, 4)
N_V_16 = tuple(Fraction(percent, 100) for percent in _PERCENT)
N_V_8 = N_V_16[::2]


@dataclass(frozen=True)
class Parameter:
    """A named parameter and its values in ascending order; the last one prunes nothing."""

    name: str
    values: tuple[Fraction, ...]


@dataclass(frozen=True, kw_only=True)
class SpaceSettings:
    """What a space is built from; each space reads what it has a use for.

    Attributes:
        num_layers: Decoder layers of the model.
        ranker: What orders the tokens of the space's policies; None: they need no order.
        n_v: Shares of the visual tokens to choose from.
        kv: Whether keys and values leave with the queries in `dop`.
        stages: How often `stages` drops tokens, at most.
        keep: Operations that are never pruned; None: all may be.
        tie: Whether queries and keys of a layer are chosen together.
    """

    num_layers: int
    ranker: RankerSpec | None = None
    n_v: tuple[Fraction, ...] = N_V_16
    kv: Literal["leaves", "stays"] = "leaves"
    stages: int = 2
    keep: frozenset[Operation] | None = None
    tie: bool = False


class SpaceFactory(Protocol):
    """Builds a space, as the registry holds it.

    Attributes:
        options: Which of `keep` and `tie` of the settings the space reads; others are refused.
        ranks_inside: Whether its policies can rank inside the decoder.
    """

    @property
    def options(self) -> frozenset[str]: ...
    @property
    def ranks_inside(self) -> bool: ...

    def from_settings(self, settings: SpaceSettings) -> Space:
        """Return the space; further keyword parameters come from `--space 'name(key=value)'`."""


class PointCosts(Protocol):
    """Costs of the points of a space too large to list, computed when asked for."""

    @property
    def space(self) -> Space: ...

    def __getitem__(self, index: int) -> int:
        """Return the cost of a point."""

    def cheapest(self) -> int:
        """Return the number of a point that costs least."""


class Space(Protocol):
    """Named integer parameters; points are rows of value indices, known by their numbers.

    Attributes:
        parameters_act_alone: Whether each parameter prunes something while all others prune
            nothing, so that individual divergences and proxies of them exist.
        listed: Whether `points` can be listed.
        points: The rows of all distinct policies by number, int[P, K]; OpsearchError unless listed.
        layer_columns: The columns of points that hold a layer, for the search from coarse to fine;
            empty where it cannot be had.
        most_counts: How many different counts of one order a policy keeps, at most.
        only_objective: The one objective that the space can be searched by; None: any.
        per_operation: The space itself where it has a choice per operation, else None.
    """

    @property
    def name(self) -> str: ...
    @property
    def num_layers(self) -> int: ...
    @property
    def parameters(self) -> tuple[Parameter, ...]: ...
    @property
    def parameters_act_alone(self) -> bool: ...
    @property
    def listed(self) -> bool: ...
    @property
    def points(self) -> NDArray[np.int64]: ...
    @property
    def layer_columns(self) -> tuple[int, ...]: ...
    @property
    def most_counts(self) -> int: ...
    @property
    def only_objective(self) -> str | None: ...
    @property
    def per_operation(self) -> PerOperation | None: ...

    def decode(self, point: Sequence[int]) -> Policy:
        """Return the policy of a row of value indices."""

    def index_of(self, point: Sequence[int]) -> int:
        """Return the number of the point whose policy equals that of a row of value indices."""

    def row(self, index: int) -> tuple[int, ...]:
        """Return the row of value indices of a point."""

    def resolved(self, points: NDArray[np.int64], n_visual: int) -> Counts:
        """Counts of many points at once for a sample of `n_visual` tokens, int[P, L, 3]."""

    def turns(self, points: NDArray[np.int64], n_visual: int) -> RerankingTable | None:
        """What rankers inside the decoder do at these points, None for nothing at any of them.

        A ranker before the decoder is the same at all points.
        """

    def live_depths(self, points: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return depths and places of shares without dead operations: how near points are."""

    def costs(
        self, cost: Cost, samples: Sequence[tuple[int, int]]
    ) -> NDArray[np.int64] | PointCosts:
        """Return the cost of every point summed over samples of (visual, other) tokens."""

    def raise_unlistable(self) -> NoReturn:
        """Raise OpsearchError: the space is too large to list."""


class PerOperation(Space, Protocol):
    """A space with a choice for every operation, and one share of tokens, n_v, for all of them.

    Attributes:
        levels: Ascending shares of n_v tokens that an operation can process, from 0 to 1.
        shares: Values of n_v.
        operations: (layer, module) of each parameter but the last, which is n_v.
        kept: Operations that always have the highest level.
        tied: Whether queries and keys of a layer have one choice.
    """

    @property
    def levels(self) -> tuple[Fraction, ...]: ...
    @property
    def shares(self) -> tuple[Fraction, ...]: ...
    @property
    def operations(self) -> tuple[Operation, ...]: ...
    @property
    def kept(self) -> frozenset[Operation]: ...
    @property
    def tied(self) -> bool: ...

    def lowest(self, layer: int, module: int) -> int:
        """Return the index in `levels` of an operation's first value."""

    def live_levels(self, point: Sequence[int]) -> Counts:
        """Return the indices in `levels` without dead operations, int64[L, 3]."""


class ListedSpace:
    """What spaces have in common whose points are listed.

    A subclass gives `name`, `num_layers`, `parameters`, `points` and `decode`. What follows from
    these is here, point by point; a subclass may do it faster for many points at once.
    """

    listed: ClassVar[bool] = True
    parameters_act_alone: ClassVar[bool] = True
    only_objective: ClassVar[str | None] = None
    per_operation: ClassVar[None] = None
    if TYPE_CHECKING:

        @property
        def name(self) -> str: ...
        @property
        def num_layers(self) -> int: ...
        @property
        def parameters(self) -> tuple[Parameter, ...]: ...

    @property
    def points(self) -> NDArray[np.int64]:
        """The rows of all distinct policies by number, int64[P, K]."""
        raise NotImplementedError

    @property
    def layer_columns(self) -> tuple[int, ...]:
        """No columns that hold a layer."""
        return ()

    @property
    def most_counts(self) -> int:
        """Any number of counts, so that only a nested ranker serves."""
        return self.num_layers

    def decode(self, point: Sequence[int]) -> Policy:
        """Return the policy of a row of value indices."""
        raise NotImplementedError

    def index_of(self, point: Sequence[int]) -> int:
        """Return the number of a listed row of value indices."""
        return self._numbers[tuple(map(int, point))]

    def row(self, index: int) -> tuple[int, ...]:
        """Return the row of value indices of a point."""
        return tuple(self.points[index].tolist())

    def resolved(self, points: NDArray[np.int64], n_visual: int) -> Counts:
        """Return the counts of points on a sample of `n_visual` tokens, int64[P, L, 3]."""
        return np.stack([self.decode(point).resolve(n_visual) for point in points.tolist()])

    def turns(self, points: NDArray[np.int64], n_visual: int) -> RerankingTable | None:
        """Return what rankers inside the decoder do at these points, None for nothing."""
        schedules = [self.decode(point).schedule(n_visual).turns for point in points.tolist()]
        return RerankingTable.of(schedules, self.num_layers)

    def live_depths(self, points: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows themselves."""
        return points

    def costs(self, cost: Cost, samples: Sequence[tuple[int, int]]) -> NDArray[np.int64]:
        """Return the cost of every point summed over the samples, int64[P]."""
        return space_costs(cost, self, samples)

    def raise_unlistable(self) -> NoReturn:
        """Raise AssertionError: the points are listed."""
        raise AssertionError(f"space {self.name!r} is listed")

    @cached_property
    def _numbers(self) -> dict[tuple[int, ...], int]:
        return {tuple(row): number for number, row in enumerate(self.points.tolist())}


POINTS_AT_ONCE = 1_024
"""Points whose counts are computed together: below 1 MB at 40 layers, which caches hold."""


def space_costs(
    cost: Cost, space: ListedSpace | Space, samples: Sequence[tuple[int, int]]
) -> NDArray[np.int64]:
    """Return the cost of every listed point summed over the samples, int64[P].

    Equal samples are computed once.
    """
    others: dict[int, Counter[int]] = defaultdict(Counter)
    for n_visual, n_other in samples:
        others[n_visual][n_other] += 1
    total = np.zeros(len(space.points), np.int64)
    for start in range(0, len(total), POINTS_AT_ONCE):
        block = slice(start, start + POINTS_AT_ONCE)
        for n_visual, times in others.items():
            counts = space.resolved(space.points[block], n_visual)
            turns = space.turns(space.points[block], n_visual)
            pools = turns.pools if turns else None
            for n_other, k in times.items():
                total[block] += k * cost.of(counts, n_visual, n_other, pools)
    return total
