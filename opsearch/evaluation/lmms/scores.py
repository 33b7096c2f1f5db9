"""Results of an evaluation: scores of original and policy, their ratios and intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opsearch.analysis.bootstrap import interval, resamples

ScoreArray = NDArray[np.float64]


@dataclass(frozen=True)
class TaskScores:
    """Original and policy on the same documents of one task.

    Attributes:
        name: As given by the user, without its folder.
        original: The original's scores of the documents that count, float64[S].
        policy: The policy's scores of the same documents, float64[S].
        dropped: Number of documents excluded because the policy was searched on them, or on samples
            with an image in common.
        changed: Answers that differ.
        official: The two official figures, None unless the whole split was answered.
    """

    name: str
    original: ScoreArray
    policy: ScoreArray
    dropped: int
    changed: int
    official: tuple[float, float] | None

    @property
    def ratio(self) -> float:
        """Mean score relative to the original's, nan where that is 0."""
        return _ratio(float(self.policy.mean()), float(self.original.mean()))

    @property
    def official_ratio(self) -> float:
        """The policy's official figure relative to the original's, nan where there is none."""
        return _ratio(self.official[1], self.official[0]) if self.official else float("nan")

    def resampled(self, seed: int) -> ScoreArray:
        """Return ratios on documents drawn with replacement, the same for both, float64[B]."""
        weights = resamples(len(self.original), seed)
        original, policy = self.original @ weights, self.policy @ weights
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(original > 0, policy / original, np.nan)


@dataclass(frozen=True)
class Evaluation:
    """All tasks of one evaluation.

    Attributes:
        model: The model, as given by the user.
        limit: Documents per task, None for all.
        tasks: Scores of the tasks.
    """

    model: str
    limit: int | None
    tasks: tuple[TaskScores, ...]

    @property
    def relative(self) -> float:
        """Rel. Avg. of scores per sample, over tasks in which the original scores above 0."""
        return _mean([task.ratio for task in self.tasks])

    @property
    def official_relative(self) -> float:
        """Rel. Avg. of official figures; nan unless every task has one."""
        if any(task.official is None for task in self.tasks):
            return float("nan")
        return _mean([task.official_ratio for task in self.tasks])

    def interval(self) -> tuple[float, float]:
        """Return the middle 95 % of Rel. Avg. under paired resampling of every task's documents."""
        drawn = [
            task.resampled(seed) for seed, task in enumerate(self.tasks) if not np.isnan(task.ratio)
        ]
        return ends(np.mean(drawn, axis=0)) if drawn else (float("nan"), float("nan"))


def ends(values: ScoreArray) -> tuple[float, float]:
    """Return the middle 95 % of resampled values, without draws in which the original scores 0."""
    known = values[~np.isnan(values)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = interval(known)
    return float(low), float(high)


def _ratio(policy: float, original: float) -> float:
    return policy / original if original > 0 else float("nan")


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")
