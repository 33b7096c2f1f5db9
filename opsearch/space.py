"""What a search space is; the spaces themselves are in `opsearch.spaces`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from opsearch.policy import Counts, Policy
from opsearch.turns import Turns

_PERCENT = (100, 90, 80, 70, 60, 50, 42, 36, 30, 25, 20, 16, 12, 9, 6, 4)
N_V_16 = tuple(Fraction(percent, 100) for percent in _PERCENT)
N_V_8 = N_V_16[::2]


@dataclass(frozen=True)
class Parameter:
    """A named parameter and its values in ascending order; the last one prunes nothing."""

    name: str
    values: tuple[Fraction, ...]


class Space(Protocol):
    """Named integer parameters; points are rows of value indices, known by their numbers.

    parameters_act_alone: whether each parameter prunes something while all others prune nothing, so
    that its individual divergence says anything. listed: whether `points`, the rows of all distinct
    policies by number, int[P, K], are few enough to be listed; OpsearchError where they are not.
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

    def decode(self, point: Sequence[int]) -> Policy:
        """The policy of one row of value indices."""

    def index_of(self, point: Sequence[int]) -> int:
        """The number of the point that is the same policy as any row of value indices."""

    def row(self, index: int) -> tuple[int, ...]:
        """The value indices of a point by its number."""

    def resolved(self, points: NDArray[np.int64], n_visual: int) -> Counts:
        """Counts of many points at once for a sample of `n_visual` tokens, int[P, L, 3]."""

    def turns(self, points: NDArray[np.int64], n_visual: int) -> Turns | None:
        """What rankers inside the decoder do at these points, None for nothing at any of them."""
