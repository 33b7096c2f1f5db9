"""Optuna's ask and tell over the points of a problem, without log lines and warnings."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from opsearch.problem.problem import Problem

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.samplers import BaseSampler


class QuietStudy:
    """A study in memory whose trials propose points of `problem.space`.

    Args:
        problem: The problem.
        objectives: The number of values per point, all of them minimised.
    """

    def __init__(self, problem: Problem, objectives: int = 1) -> None:
        import optuna

        self._problem = problem
        with _quiet():
            self._study = optuna.create_study(directions=["minimize"] * objectives)

    def enqueue(self, index: int) -> None:
        """Make a later trial propose point `index`."""
        names = (parameter.name for parameter in self._problem.space.parameters)
        row = self._problem.space.row(index)
        with _quiet():
            self._study.enqueue_trial(dict(zip(names, row, strict=True)))

    def ask(self, sampler: BaseSampler) -> tuple[Trial, int]:
        """Return the next trial and the point with the policy that `sampler` proposes."""
        with _quiet():
            self._study.sampler = sampler
            trial = self._study.ask()
            row = [
                trial.suggest_int(parameter.name, 0, len(parameter.values) - 1)
                for parameter in self._problem.space.parameters
            ]
        return trial, self._problem.space.index_of(row)

    def tell(self, trial: Trial, index: int, *values: float) -> None:
        """Report the values of a point.

        Without values, or with nan, the trial is reported as pruned: from a failed one the sampler
        would learn nothing.
        """
        from optuna.trial import TrialState

        with _quiet():
            for number, constraint in enumerate(self._problem.constraints):
                excess = constraint.cost(index) - constraint.limit
                trial.set_constraint(str(number), excess / max(abs(constraint.limit), 1))
            if not values or np.isnan(values).any():
                self._study.tell(trial, state=TrialState.PRUNED)
            else:
                self._study.tell(trial, values)


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress optuna's log lines and its warnings on experimental features."""
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)
