"""Forms of objectives, which determine what a solver may assume."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from opsearch.formatting import screen_repr
from opsearch.policy.policy import Policy
from opsearch.problem.spaces.base import Space

Form = Literal["table", "separable", "pairwise", "blackbox", "bounded"]
Masses = NDArray[np.float32]
"""Attention that each visual token of a sample receives in each layer, from question rows and from
visual rows, float32[L, 2, N]."""


class Measure(Protocol):
    """Measurement on the calibration samples of a search, or lookup of stored values."""

    def __call__(self, policies: Sequence[Policy]) -> NDArray[np.float64]:
        """Return the KL of each policy on each sample in nats, float64[P, S]; nan if unknown."""

    def received_attention(self) -> list[Masses]:
        """Return the attention that visual tokens receive in the original, one array per sample."""

    def gate_gradients(self, policies: Sequence[Policy]) -> NDArray[np.float64]:
        """Return the gradient that each policy's closed gates have on each sample, float64[P, S].

        It is in nats per unit of a gate and at least 0, see `opsearch/measure/gates`.
        """


@runtime_checkable
class SubsetMeasure(Measure, Protocol):
    """A measurement that may be confined to a part of the samples."""

    def on(self, policies: Sequence[Policy], samples: Sequence[int]) -> NDArray[np.float64]:
        """Return the KL of each policy on some samples, by their numbers, float64[P, s]."""


KL_DECIMALS = 6
KL_QUANTUM = 10.0**-KL_DECIMALS
"""Nats; divergences are rounded to multiples of it, so smaller differences are ties."""


def rounded_mean(divergences: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over samples of each row in whole quanta, so that ties are exact."""
    return np.asarray(np.round(divergences.mean(axis=1), KL_DECIMALS))


def in_quanta(values: NDArray[np.float64], quantum: float) -> NDArray[np.float64]:
    """Return values as whole numbers of a quantum; unchanged where it is zero."""
    return np.rint(values / quantum) if quantum > 0 else values


PROXIES: tuple[Form, ...] = ("separable", "pairwise")
"""Forms of objectives that are sums of terms, and not divergences of policies as they run."""


class Objective(Protocol):
    """A number per point of a space; lower is better."""

    @property
    def name(self) -> str:
        """Name of the objective."""

    @property
    def unit(self) -> str:
        """Unit of the values."""

    @property
    def form(self) -> Form:
        """Form of the objective."""

    @property
    def quantum(self) -> float:
        """Values are whole multiples of it, so ties are exact; 0 if they are arbitrary."""

    def value(self, index: int) -> float:
        """Return the value of a point."""


@dataclass(frozen=True)
class Table:
    """An objective with a known value for every measured point.

    Attributes:
        name: Name of the objective.
        unit: Unit of the values.
        values: Value of each point, nan if not measured, float64[P].
        quantum: See `Objective`.
        form: See `Objective`.
        how: Clause that names the measured points, without full stop; empty: all.
        lower: Lower bound of the value of each point, nan where nothing is known of it, float64[P];
            None: there are no bounds. A point measured on some samples has one and no value.
    """

    name: str
    unit: str
    values: NDArray[np.float64]
    quantum: float = 0.0
    form: Form = "table"
    how: str = ""
    lower: NDArray[np.float64] | None = None

    __repr__ = screen_repr

    def value(self, index: int) -> float:
        """Return the value of point `index`."""
        return float(self.values[index])


@dataclass(frozen=True)
class Separable:
    """A sum of one term per parameter.

    Attributes:
        name: Name of the objective.
        unit: Unit of the values.
        space: The space.
        terms: Term of each value of each parameter; terms[k][i] is that of value i of parameter k.
        quantum: See `Objective`.
        form: See `Objective`.
    """

    name: str
    unit: str
    space: Space
    terms: tuple[NDArray[np.float64], ...]
    quantum: float = 0.0
    form: Form = "separable"

    __repr__ = screen_repr

    @cached_property
    def values(self) -> NDArray[np.float64]:
        """Sum of the terms at every point of the space, float64[P]."""
        columns = zip(self.terms, self.space.points.T, strict=True)
        return np.asarray(np.sum([term[column] for term, column in columns], axis=0))

    def value(self, index: int) -> float:
        """Return the sum of the terms at point `index`."""
        row = self.space.row(index)
        return float(sum(term[i] for term, i in zip(self.terms, row, strict=True)))


Choice = tuple[int, int]
"""A parameter and the index of one of its values."""
Pair = tuple[Choice, Choice]
"""Two choices, sorted by parameter."""


@dataclass(frozen=True)
class Pairwise:
    """A sum of one term per parameter and of interactions of pairs of choices.

    Attributes:
        name: Name of the objective.
        unit: Unit of the values.
        space: The space.
        terms: Term of each value of each parameter, as in `Separable`.
        pairs: Interaction that is added if both choices of the pair are made.
        quantum: See `Objective`.
        form: See `Objective`.
    """

    name: str
    unit: str
    space: Space
    terms: tuple[NDArray[np.float64], ...]
    pairs: Mapping[Pair, float]
    quantum: float = 0.0
    form: Form = "pairwise"

    __repr__ = screen_repr

    def value(self, index: int) -> float:
        """Return the sum of the terms and interactions at point `index`."""
        row = self.space.row(index)
        alone = sum(term[i] for term, i in zip(self.terms, row, strict=True))
        together = (w for ((k, i), (m, j)), w in self.pairs.items() if row[k] == i and row[m] == j)
        return float(alone + sum(together))

    @property
    def interaction_share(self) -> float:
        """Sum of absolute interactions over the sum of absolute terms of all pairs."""
        alone = sum(abs(self.terms[k][i]) + abs(self.terms[m][j]) for (k, i), (m, j) in self.pairs)
        return float(sum(map(abs, self.pairs.values())) / alone) if alone else 0.0


@dataclass(frozen=True)
class Blackbox:
    """An objective that is evaluated on request.

    Attributes:
        name: Name of the objective.
        unit: Unit of the values.
        evaluate: Returns the values of points by their numbers, float64[n]; several points in one
            call are faster.
        quantum: See `Objective`.
        form: See `Objective`.
    """

    name: str
    unit: str
    evaluate: Callable[[Sequence[int]], NDArray[np.float64]] = field(compare=False)
    quantum: float = 0.0
    form: Form = "blackbox"

    __repr__ = screen_repr

    def value(self, index: int) -> float:
        """Measure point `index`."""
        return float(self.evaluate([index])[0])


@dataclass(frozen=True)
class Bounded:
    """An objective with a rule that maps a bound on its value to one point.

    Attributes:
        name: Name of the objective.
        unit: Unit of the values.
        within: Returns the number of the point for a bound; a higher bound prunes more.
        evaluate: Returns the value of a point by its number.
        quantum: See `Objective`.
        form: See `Objective`.
    """

    name: str
    unit: str
    within: Callable[[float], int] = field(compare=False)
    evaluate: Callable[[int], float] = field(compare=False)
    quantum: float = 0.0
    form: Form = "bounded"

    __repr__ = screen_repr

    def value(self, index: int) -> float:
        """Return the value of point `index`."""
        return self.evaluate(index)
