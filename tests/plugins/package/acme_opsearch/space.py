"""A space of two shares: of the tokens in early layers, and of those in late ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from opsearch import Policy, RankerSpec, builders
from opsearch.problem import ListedSpace, Parameter, SpaceSettings


@dataclass(frozen=True)
class Steps(ListedSpace):
    """A share of the tokens in the first layers, and a smaller one from some layer on.

    The contract is `opsearch.problem.Space`; `ListedSpace` derives most of it from the
    points and the policy of each.
    """

    num_layers: int
    shares: tuple[Fraction, ...]
    late_from: int
    ranker: RankerSpec | None

    name: ClassVar[str] = "acme-steps"
    options: ClassVar[frozenset[str]] = frozenset()  # neither --keep nor --tie
    ranks_inside: ClassVar[bool] = False

    @classmethod
    def from_settings(cls, settings: SpaceSettings, late_from: int | None = None) -> Steps:
        """Return the space; `late_from` is the user's `acme-steps(late_from=2)`."""
        layer = settings.num_layers // 2 if late_from is None else late_from
        if not 0 < layer < settings.num_layers:
            raise TypeError(f"late_from={layer} is not between 1 and {settings.num_layers - 1}")
        shares = tuple(sorted({*settings.n_v, Fraction(1)}))
        return cls(settings.num_layers, shares, layer, settings.ranker)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The share in early layers, and that in late ones; the last value prunes nothing."""
        return Parameter("early", self.shares), Parameter("late", self.shares)

    @property
    def most_counts(self) -> int:
        """One count in early layers, another in late ones."""
        return 2

    @cached_property
    def points(self) -> NDArray[np.int64]:
        """Rows of distinct policies, int64[P, 2]: late layers keep no more than early ones."""
        size = len(self.shares)
        return np.array([(early, late) for early in range(size) for late in range(early + 1)])

    def index_of(self, point: Sequence[int]) -> int:
        """Return the number of the point that is the same policy as any row."""
        early, late = point
        return super().index_of((early, min(early, late)))

    def decode(self, point: Sequence[int]) -> Policy:
        """Return the policy of any row."""
        early, late = (self.shares[int(place)] for place in point)
        shares = {0: early, self.late_from: min(early, late)}
        return builders.stages(self.num_layers, shares, self.ranker)
