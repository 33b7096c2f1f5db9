"""Optuna's ask and tell over the points of a problem, without its log lines and notes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from opsearch.problem import Problem

if TYPE_CHECKING:
    from optuna import Trial


class QuietStudy:
    """A study in memory whose trials propose points of `problem.space`."""

    def __init__(self, problem: Problem) -> None:
        import optuna

        self._problem = problem
        with _quiet():
            self._study = optuna.create_study(direction="minimize")

    def enqueue(self, index: int) -> None:
        """Make a coming trial propose point `index`."""
        names = (parameter.name for parameter in self._problem.space.parameters)
        row = self._problem.space.row(index)
        with _quiet():
            self._study.enqueue_trial(dict(zip(names, row, strict=True)))

    def ask(self, seed: int) -> tuple[Trial, int]:
        """The next trial, and the listed point that stands for what it proposes."""
        from optuna.samplers import TPESampler

        with _quiet():
            # A sampler of its own for each trial keeps no state between trials: any run can be
            # continued bit for bit.
            self._study.sampler = TPESampler(seed=seed)
            trial = self._study.ask()
            row = [
                trial.suggest_int(parameter.name, 0, len(parameter.values) - 1)
                for parameter in self._problem.space.parameters
            ]
        return trial, self._problem.space.index_of(row)

    def tell(self, trial: Trial, index: int, value: float | None) -> None:
        """Report a value, or that the point is over budget or has none.

        Both are told as pruned: a failed trial would teach the sampler nothing.
        """
        from optuna.trial import TrialState

        with _quiet():
            for number, constraint in enumerate(self._problem.constraints):
                excess = constraint.cost(index) - constraint.limit
                trial.set_constraint(str(number), excess / max(abs(constraint.limit), 1))
            if value is None or np.isnan(value):
                self._study.tell(trial, state=TrialState.PRUNED)
            else:
                self._study.tell(trial, value)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without optuna's log lines and its notes on experimental features."""
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
