"""Forms of an objective: what a solver may assume of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from opsearch.policy.policy import Policy
from opsearch.problem.spaces.base import Space

Form = Literal["table", "separable", "pairwise", "blackbox", "bounded"]
Masses = NDArray[np.float32]
"""Attention that the visual tokens of a sample receive from the question's rows and from visual
rows, in each layer, float32[L, 2, N]."""


class Measure(Protocol):
    """Measures on the calibration samples of a search, or looks up what was measured."""

    def __call__(self, policies: Sequence[Policy]) -> NDArray[np.float64]:
        """Return the KL of each policy on each sample in nats, float64[P, S]; nan: not known."""

    def received_attention(self) -> list[Masses]:
        """Return for each sample the attention that its visual tokens get in the original."""


KL_DECIMALS = 6
KL_QUANTUM = 10.0**-KL_DECIMALS
"""Nats: solvers see divergences as whole multiples of it, smaller differences are ties."""


class Objective(Protocol):
    """A number per point of a space, lower is better.

    quantum: values are whole multiples of it (so that ties are exact), 0 when they are arbitrary.
    """

    @property
    def name(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def form(self) -> Form: ...
    @property
    def quantum(self) -> float: ...

    def value(self, index: int) -> float:
        """The value of a point by its number."""


@dataclass(frozen=True)
class Table:
    """An objective known for every point; nan marks points that were not measured.

    how: which points were measured, where not all were, as a sentence without its dot.
    """

    name: str
    unit: str
    values: NDArray[np.float64]
    quantum: float = 0.0
    form: Form = "table"
    how: str = ""

    def value(self, index: int) -> float:
        """The value of point `index`."""
        return float(self.values[index])


@dataclass(frozen=True)
class Separable:
    """A sum of one term per parameter; terms[k][i] belongs to value i of parameter k."""

    name: str
    unit: str
    space: Space
    terms: tuple[NDArray[np.float64], ...]
    quantum: float = 0.0
    form: Form = "separable"

    @cached_property
    def values(self) -> NDArray[np.float64]:
        """The sum of the terms at every point of the space."""
        columns = zip(self.terms, self.space.points.T, strict=True)
        return np.asarray(np.sum([term[column] for term, column in columns], axis=0))

    def value(self, index: int) -> float:
        """The sum of the terms at point `index`."""
        row = self.space.row(index)
        return float(sum(term[i] for term, i in zip(self.terms, row, strict=True)))


Choice = tuple[int, int]
"""A parameter and the index of one of its values."""
Pair = tuple[Choice, Choice]
"""Two choices, the one of the earlier parameter first."""


@dataclass(frozen=True)
class Pairwise:
    """A sum of one term per parameter, and of what pairs of choices add or spare together."""

    name: str
    unit: str
    space: Space
    terms: tuple[NDArray[np.float64], ...]
    pairs: Mapping[Pair, float]
    quantum: float = 0.0
    form: Form = "pairwise"

    def value(self, index: int) -> float:
        """The sum of the terms and of the pairs that hold at point `index`."""
        row = self.space.row(index)
        alone = sum(term[i] for term, i in zip(self.terms, row, strict=True))
        together = (w for ((k, i), (m, j)), w in self.pairs.items() if row[k] == i and row[m] == j)
        return float(alone + sum(together))

    @property
    def interaction_share(self) -> float:
        """Size of the interactions as a share of what the two choices of each pair cost alone."""
        alone = sum(abs(self.terms[k][i]) + abs(self.terms[m][j]) for (k, i), (m, j) in self.pairs)
        return float(sum(map(abs, self.pairs.values())) / alone) if alone else 0.0


@dataclass(frozen=True)
class Blackbox:
    """An objective that is measured when asked for, best for many points at once.

    evaluate: values of points by their numbers, float64[n].
    """

    name: str
    unit: str
    evaluate: Callable[[Sequence[int]], NDArray[np.float64]] = field(compare=False)
    quantum: float = 0.0
    form: Form = "blackbox"

    def value(self, index: int) -> float:
        """Measure point `index`."""
        return float(self.evaluate([index])[0])


@dataclass(frozen=True)
class Bounded:
    """An objective that gives, for a bound on it, one point by a rule of its own.

    within: the number of that point, a higher bound gives one that prunes more; evaluate: the value
    of a point by its number.
    """

    name: str
    unit: str
    within: Callable[[float], int] = field(compare=False)
    evaluate: Callable[[int], float] = field(compare=False)
    quantum: float = 0.0
    form: Form = "bounded"

    def value(self, index: int) -> float:
        """The value of point `index`."""
        return self.evaluate(index)
