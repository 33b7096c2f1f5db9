"""NSGA-II (optuna): points that trade cost against an objective too dear to evaluate everywhere.

Deb et al., IEEE Transactions on Evolutionary Computation 6 (2002). Nothing is proved.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from opsearch.problem.problem import Problem
from opsearch.solvers.evaluated import EvaluatedPoints
from opsearch.solvers.optuna_study import QuietStudy

if TYPE_CHECKING:
    from optuna import Trial

_POPULATION = 20
_PATIENCE = 200  # proposals in a row without a new point, which end the search


def nsga2(problem: Problem, start: Sequence[int], evaluations: int, seed: int) -> EvaluatedPoints:
    """Evaluate `start` together, then generation by generation what descends from the best.

    problem: with a Blackbox; minimised beside it is the cost of the first constraint. start: points
    within the budget, the first generation, filled up by random ones. evaluations: of different
    points, at most. A longer search extends a shorter one with the same seed and start.
    """
    from optuna.samplers import NSGAIISampler

    asked = EvaluatedPoints(problem, evaluations)
    sampler = NSGAIISampler(population_size=_POPULATION, seed=seed % 2**32)
    study = QuietStudy(problem, objectives=2)
    for index in dict.fromkeys(start):
        study.enqueue(index)
    size = max(len(set(start)), _POPULATION)
    while not asked.spent:
        room = min(size, asked.limit - len(asked.values))
        waiting: dict[int, Trial] = {}
        fruitless = 0
        while len(waiting) < room and fruitless < _PATIENCE:
            trial, index = study.ask(sampler)
            if index in waiting or index in asked.values or not problem.within(index):
                # Not told again, so that a generation holds different points.
                fruitless += 1
                study.tell(trial, index)
            else:
                fruitless = 0
                waiting[index] = trial
        if not waiting:
            break
        asked.evaluate(waiting)
        for index, trial in waiting.items():
            study.tell(trial, index, problem.constraints[0].cost(index), asked.values[index])
        size = _POPULATION
    return asked
