"""Space `recipes`: the share of visual tokens left after each layer (FitPrune, AAAI 2025).

The ranker `fitprune` reranks the remaining tokens in each layer. A layer still reads the tokens
that are deleted in it, but no longer updates them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
from itertools import accumulate, pairwise
from typing import ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray

from opsearch.costs.base import Cost, policy_cost
from opsearch.errors import OpsearchError
from opsearch.formatting import screen_repr
from opsearch.policy import builders
from opsearch.policy.counts import Counts, resolve_fraction
from opsearch.policy.policy import Policy
from opsearch.problem.spaces.base import Parameter, SpaceSettings, UnlistedSpace

_STEPS = 1000  # a share in thousandths is any whole number of less than 1,000 tokens


@dataclass(frozen=True)
class RecipeSpace(UnlistedSpace):
    """An upper limit on the share of tokens left after each layer.

    A share above that of the preceding layer is the same policy as the preceding share. A point's
    number is the index of its row among all rows in lexicographic order.

    Attributes:
        num_layers: Number of decoder layers.
    """

    num_layers: int
    name: ClassVar[str] = "recipes"
    parameters_act_alone: ClassVar[bool] = False  # tokens deleted in one layer stay deleted
    most_counts: ClassVar[int] = 1  # it has its own ranker
    only_objective: ClassVar[str | None] = "attention"
    per_operation: ClassVar[None] = None
    options: ClassVar[frozenset[str]] = frozenset()
    ranks_inside: ClassVar[bool] = True

    __repr__ = screen_repr

    @classmethod
    def from_settings(cls, settings: SpaceSettings) -> RecipeSpace:
        """Return the space; it has its own shares and ranker."""
        return cls(settings.num_layers)

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """left0, left1, ...: one per layer, in thousandths."""
        shares = tuple(Fraction(step, _STEPS) for step in range(_STEPS + 1))
        return tuple(Parameter(f"left{layer}", shares) for layer in range(self.num_layers))

    def decode(self, point: Sequence[int]) -> Policy:
        """Return the policy of a row of value indices."""
        left = [_STEPS, *accumulate(point, min)]
        deleted = {layer: before - after for layer, (before, after) in enumerate(pairwise(left))}
        policy = builders.fitprune(deleted, self.num_layers, _STEPS)
        name = f"fitprune({Fraction(left[-1], _STEPS)} left)"
        # In thousandths, a deletion of whole tokens may be a little too low to be rounded down.
        return replace(policy, unit="fraction", name=name)

    def index_of(self, point: Sequence[int]) -> int:
        """Return the number of the point whose policy equals that of a row of value indices."""
        index = 0
        for step in accumulate(point, min):
            index = index * (_STEPS + 1) + step
        return index

    def row(self, index: int) -> tuple[int, ...]:
        """Return the row of value indices of a point."""
        found = []
        for _ in range(self.num_layers):
            index, step = divmod(index, _STEPS + 1)
            found.append(step)
        return tuple(reversed(found))

    def resolved(self, points: NDArray[np.int64], n_visual: int) -> Counts:
        """Return the counts of points on a sample of `n_visual` tokens, int64[P, L, 3]."""
        shares = [resolve_fraction(Fraction(step, _STEPS), n_visual) for step in range(_STEPS + 1)]
        after = np.array(shares, np.int64)[np.minimum.accumulate(points, axis=1)]
        entering = np.concatenate([np.full((len(points), 1), n_visual), after[:, :-1]], axis=1)
        return np.stack([after, entering, after], axis=2)

    def rerankings(self, points: NDArray[np.int64], n_visual: int) -> NoReturn:
        """Raise OpsearchError: `RecipeCosts` uses the schedule of each policy."""
        self.raise_unlistable()

    def costs(self, cost: Cost, samples: Sequence[tuple[int, int]]) -> RecipeCosts:
        """Return the cost of every point, computed on request."""
        return RecipeCosts(self, cost, Counter(samples))

    def raise_unlistable(self) -> NoReturn:
        """Raise OpsearchError: the space is too large to list."""
        raise OpsearchError(
            f"space {self.name!r} has a share for each of {self.num_layers} layers, too many "
            "points to list; search it with --objective attention, or use another space where a "
            "list is required"
        )


@dataclass(frozen=True, eq=False)
class RecipeCosts:
    """Cost of points, computed on request.

    Attributes:
        space: The space.
        of: The cost.
        samples: Number of samples by (visual tokens, other tokens).
    """

    space: RecipeSpace
    of: Cost
    samples: Counter[tuple[int, int]]

    __repr__ = screen_repr

    def __getitem__(self, index: int) -> int:
        """Return the cost of a point."""
        policy = self.space.decode(self.space.row(index))
        return sum(k * policy_cost(self.of, policy, n, t) for (n, t), k in self.samples.items())

    def cheapest(self) -> int:
        """Return the number of the cheapest point, which deletes all tokens in the first layer."""
        return 0
