"""The contract of a search space, and the base class of listed spaces."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from opsearch.costs.base import Cost, ranking_cost
from opsearch.costs.exact import Integers, weighted_sum
from opsearch.formatting import screen_repr
from opsearch.policy.builders import KVReading
from opsearch.policy.counts import Counts
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec
from opsearch.policy.schedule import RerankingTable

Operation = tuple[int, int]
"""A decoder layer and one of its modules."""

_PERCENT = (100, 90, 80, 70, 60, 50, 42, 36, 30, 25, 20, 16, 12, 9, 6, 4)
N_V_16 = tuple(Fraction(percent, 100) for percent in _PERCENT)
N_V_8 = N_V_16[::2]
STAGES = 2
"""Default number of stages: 60,033 policies at 32 layers and 16 n_v; three have 2.8 million."""


@dataclass(frozen=True)
class Parameter:
    """A named parameter.

    Attributes:
        name: Name of the parameter.
        values: Values in ascending order; the last one prunes nothing.
    """

    name: str
    values: tuple[Fraction, ...]

    __repr__ = screen_repr


@dataclass(frozen=True, kw_only=True)
class SpaceSettings:
    """Settings of a space; each space reads the ones that apply to it.

    Attributes:
        num_layers: Decoder layers of the model.
        ranker: Ranker of the policies; None if they need none.
        n_v: Shares of the visual tokens to choose from.
        kv: Reading of `dop`: keys and values of pruned layers leave or stay.
        stages: Largest number of stages in `stages`.
        keep: Operations that are never pruned; None: none.
        tie: True if queries and keys of a layer are one parameter.
        groups: Rising shares of the tokens in the groups of `operations`, 1 the last; None: GSOP's.
    """

    num_layers: int
    ranker: RankerSpec | None = None
    n_v: tuple[Fraction, ...] = N_V_16
    kv: KVReading = "leaves"
    stages: int = STAGES
    keep: frozenset[Operation] | None = None
    tie: bool = False
    groups: tuple[Fraction, ...] | None = None

    __repr__ = screen_repr


class SpaceFactory(Protocol):
    """Factory of a space, as registered."""

    @property
    def options(self) -> frozenset[str]:
        """Settings among `keep`, `tie` and `groups` that the space reads; others are errors."""

    @property
    def ranks_inside(self) -> bool:
        """True if its policies can rank inside the decoder."""

    def from_settings(self, settings: SpaceSettings) -> Space:
        """Return the space; more keyword parameters come from `--space 'name(key=value)'`."""


class PointCosts(Protocol):
    """Costs of the points of a space too large to list, computed on request."""

    @property
    def space(self) -> Space:
        """The space."""

    def __getitem__(self, index: int) -> int:
        """Return the cost of a point."""

    def cheapest(self) -> int:
        """Return the number of a cheapest point."""


class Space(Protocol):
    """Named integer parameters; a point is a row of value indices and has a number."""

    @property
    def name(self) -> str:
        """Name of the space."""

    @property
    def num_layers(self) -> int:
        """Number of decoder layers."""

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Parameters in the order of the columns of a point."""

    @property
    def parameters_act_alone(self) -> bool:
        """True if each parameter prunes while all others do not, as proxies require."""

    @property
    def listed(self) -> bool:
        """True if `points` can be listed."""

    @property
    def points(self) -> NDArray[np.int64]:
        """Rows of all distinct policies by number, int64[P, K]; OpsearchError unless listed."""

    @property
    def layer_columns(self) -> tuple[int, ...] | None:
        """Columns of a point that contain a layer; None: no search from coarse to fine."""

    @property
    def most_counts(self) -> int:
        """Largest number of different counts of one order in a policy."""

    @property
    def only_objective(self) -> str | None:
        """The only objective that can search the space; None: any."""

    @property
    def per_operation(self) -> PerOperation | None:
        """The space itself if it has one parameter per operation, otherwise None."""

    def decode(self, point: Sequence[int]) -> Policy:
        """Return the policy of a row of value indices."""

    def index_of(self, point: Sequence[int]) -> int:
        """Return the number of the point whose policy equals that of a row of value indices."""

    def row(self, index: int) -> tuple[int, ...]:
        """Return the row of value indices of a point."""

    def resolved(self, points: NDArray[np.int64], n_visual: int) -> Counts:
        """Return the counts of points on a sample of `n_visual` tokens, int64[P, L, 3]."""

    def rerankings(self, points: NDArray[np.int64], n_visual: int) -> RerankingTable | None:
        """Return the rerankings inside the decoder at these points; None if there are none.

        A ranker before the decoder is the same at all points.
        """

    def live_depths(self, points: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return depths and share indices without dead operations, by which points are near."""

    def costs(self, cost: Cost, samples: Sequence[tuple[int, int]]) -> Integers | PointCosts:
        """Return the cost of every point summed over samples of (visual, other) tokens."""

    def raise_unlistable(self) -> NoReturn:
        """Raise OpsearchError: the space is too large to list."""


class PerOperation(Space, Protocol):
    """A space with one parameter per operation, and one share of tokens, n_v, for all of them."""

    @property
    def levels(self) -> tuple[Fraction, ...]:
        """Ascending shares of n_v tokens that an operation can process, from 0 to 1."""

    @property
    def shares(self) -> tuple[Fraction, ...]:
        """Values of n_v."""

    @property
    def operations(self) -> tuple[Operation, ...]:
        """(layer, module) of each parameter except n_v, the last one."""

    @property
    def kept(self) -> frozenset[Operation]:
        """Operations that always have the highest level."""

    @property
    def tied(self) -> bool:
        """True if queries and keys of a layer are one parameter."""

    def lowest(self, layer: int, module: int) -> int:
        """Return the index in `levels` of an operation's first value."""

    def live_levels(self, point: Sequence[int]) -> Counts:
        """Return the indices in `levels` without dead operations, int64[L, 3]."""


class ListedSpace:
    """Base class of spaces whose points are listed.

    A subclass defines `name`, `num_layers`, `parameters`, `points` and `decode`. The other methods
    are derived from these point by point; a subclass may override them with faster ones.
    """

    listed: ClassVar[bool] = True
    parameters_act_alone: ClassVar[bool] = True
    only_objective: ClassVar[str | None] = None
    per_operation: ClassVar[None] = None
    if TYPE_CHECKING:

        @property
        def name(self) -> str:
            """Name of the space."""
            raise NotImplementedError

        @property
        def num_layers(self) -> int:
            """Number of decoder layers."""
            raise NotImplementedError

        @property
        def parameters(self) -> tuple[Parameter, ...]:
            """Parameters in the order of the columns of a point."""
            raise NotImplementedError

    @property
    def points(self) -> NDArray[np.int64]:
        """Rows of all distinct policies by number, int64[P, K]."""
        raise NotImplementedError

    @property
    def layer_columns(self) -> tuple[int, ...] | None:
        """None: no search from coarse to fine."""
        return None

    @property
    def most_counts(self) -> int:
        """Largest number of different counts of one order: any, so rankers must be nested."""
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

    def rerankings(self, points: NDArray[np.int64], n_visual: int) -> RerankingTable | None:
        """Return the rerankings inside the decoder at these points; None if there are none."""
        schedules = [self.decode(point).schedule(n_visual).rerankings for point in points.tolist()]
        return RerankingTable.of(schedules, self.num_layers)

    def live_depths(self, points: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows themselves."""
        return points

    def costs(self, cost: Cost, samples: Sequence[tuple[int, int]]) -> Integers:
        """Return the cost of every point summed over the samples, exact integers [P]."""
        return space_costs(cost, self, samples)

    def raise_unlistable(self) -> NoReturn:
        """Raise AssertionError: the points are listed."""
        raise AssertionError(f"space {self.name!r} is listed")

    @cached_property
    def _numbers(self) -> dict[tuple[int, ...], int]:
        return {tuple(row): number for number, row in enumerate(self.points.tolist())}


def unpruned(space: Space) -> list[int]:
    """Return the row of value indices that prunes nothing."""
    return [len(parameter.values) - 1 for parameter in space.parameters]


class UnlistedSpace:
    """Base class of spaces that are too large to list.

    A subclass defines `raise_unlistable`, which says how to search it, and the rest of `Space`.
    """

    listed: ClassVar[bool] = False
    layer_columns: ClassVar[None] = None
    only_objective: ClassVar[str | None] = None

    @property
    def points(self) -> NDArray[np.int64]:
        """Raise OpsearchError: the space is too large to list."""
        self.raise_unlistable()

    def live_depths(self, points: NDArray[np.int64]) -> NoReturn:
        """Raise OpsearchError: the space is too large to list."""
        self.raise_unlistable()

    def raise_unlistable(self) -> NoReturn:
        """Raise OpsearchError: the space is too large to list."""
        raise NotImplementedError


POINTS_AT_ONCE = 1_024
"""Points whose counts are computed together; less than 1 MB at 40 layers, which fits in caches."""


def space_costs(
    cost: Cost, space: ListedSpace | Space, samples: Sequence[tuple[int, int]]
) -> Integers:
    """Return the cost of every listed point summed over the samples, exact integers [P].

    Equal samples are computed once.
    """
    others: dict[int, Counter[int]] = defaultdict(Counter)
    for n_visual, n_other in samples:
        others[n_visual][n_other] += 1

    def of_block(points: NDArray[np.int64]) -> Iterator[tuple[int, Integers]]:
        for n_visual, times in others.items():
            counts = space.resolved(points, n_visual)
            rerankings = space.rerankings(points, n_visual)
            candidates = rerankings.candidates_by_layer if rerankings else None
            for n_other, k in times.items():
                yield k, cost.of(counts, n_visual, n_other, candidates)
                if rerankings:
                    yield k, ranking_cost(cost, rerankings, n_visual, n_other)

    starts = range(0, len(space.points), POINTS_AT_ONCE)
    blocks = [space.points[start : start + POINTS_AT_ONCE] for start in starts]
    return np.concatenate([weighted_sum(of_block(block), (len(block),)) for block in blocks])
