"""The pairwise proxy: individual divergences, corrected by interactions of pairs of choices.

D(i) + D(j) is corrected by the measured interaction D(i, j) - D(i) - D(j), where each divergence is
measured with all else unpruned. The proxy is exact for policies with at most two pruning choices.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from opsearch.errors import OpsearchError, echo
from opsearch.objectives.additive import Additive, require_individual
from opsearch.problem.objective import (
    KL_DECIMALS,
    KL_QUANTUM,
    Choice,
    Form,
    Measure,
    Pair,
    Pairwise,
)
from opsearch.problem.objective_factory import ObjectiveSettings, Pairs, require_any_objective
from opsearch.problem.spaces.base import PerOperation, Space, unpruned


@dataclass(frozen=True)
class MeasuredPairs:
    """Sum of individual divergences and of measured interactions.

    Attributes:
        pairs: `all`; `adjacent`: in spaces with one parameter per operation, pairs of operations in
            the same or adjacent layers, and of each operation with n_v; or a number of pairs, which
            are drawn at random.
        seed: Seed of the drawn pairs.
    """

    pairs: Pairs = "adjacent"
    seed: int = 0
    name: ClassVar[str] = "pairwise"
    per_budget: ClassVar[bool] = False
    form: ClassVar[Form] = "pairwise"

    def __post_init__(self) -> None:
        if not isinstance(self.pairs, int) and self.pairs not in ("adjacent", "all"):
            raise OpsearchError(
                f"pairs {echo(self.pairs)} is not adjacent, all or a number; give for example 500"
            )

    @classmethod
    def from_settings(cls, settings: ObjectiveSettings) -> MeasuredPairs:
        """Return the proxy of these settings."""
        return cls(settings.pairs, settings.seed)

    def require(self, space: Space) -> None:
        """Raise OpsearchError if single parameters of the space prune nothing."""
        require_any_objective(self.name, space)
        require_individual(space)

    def make(self, space: Space, measure: Measure, feasible: NDArray[np.bool_]) -> Pairwise:
        """Measure each choice alone, then each pair of choices (nats, mean over samples).

        Raises:
            OpsearchError: Single parameters of the space prune nothing.
        """
        require_individual(space)
        alone = Additive().make(space, measure, feasible)
        pairs = self.choices(space)
        policies = [space.decode(together(space, pair)) for pair in pairs]
        # A space with one parameter has no pairs.
        means = measure(policies).mean(axis=1) if policies else np.zeros(0)
        interactions = {}
        for pair, mean in zip(pairs, means, strict=True):
            (k, i), (m, j) = pair
            effect = round(float(mean - alone.terms[k][i] - alone.terms[m][j]), KL_DECIMALS)
            if effect:
                interactions[pair] = effect
        return Pairwise(
            name=self.name,
            unit="nats",
            space=space,
            terms=alone.terms,
            pairs=interactions,
            quantum=KL_QUANTUM,
        )

    def choices(self, space: Space) -> list[Pair]:
        """Return the pairs of pruning choices to measure."""
        every = list(pruning_pairs(space))
        if isinstance(self.pairs, int):
            drawn = np.random.default_rng(self.seed).permutation(len(every))[: self.pairs]
            return [every[position] for position in sorted(drawn)]
        operations = space.per_operation
        if self.pairs == "all" or operations is None:
            return every
        return [((k, i), (m, j)) for (k, i), (m, j) in every if near(operations, k, m)]


def pruning_pairs(space: Space) -> Iterator[Pair]:
    """Yield all pairs of pruning choices of two parameters."""
    for k, m in combinations(range(len(space.parameters)), 2):
        for i in range(len(space.parameters[k].values) - 1):
            for j in range(len(space.parameters[m].values) - 1):
                yield (k, i), (m, j)


def near(space: PerOperation, k: int, m: int) -> bool:
    """Return whether two parameters are in the same or adjacent layers, or one is n_v."""
    if m == len(space.operations):
        return True
    return abs(space.operations[k][0] - space.operations[m][0]) <= 1


def together(space: Space, choices: tuple[Choice, ...]) -> list[int]:
    """Return the point that makes these choices and prunes nothing else."""
    point = unpruned(space)
    for k, i in choices:
        point[k] = i
    return point
