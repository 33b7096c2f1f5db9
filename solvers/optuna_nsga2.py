"""NSGA-II (optuna): trade-offs of cost and an objective too expensive to evaluate everywhere.

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
    """Evaluate a first generation and its descendants, and return all evaluated points.

    A longer search extends a shorter one with the same seed and start.

    Args:
        problem: A problem with a Blackbox, which is minimised together with the cost of the first
            constraint.
        start: Points within the budget for the first generation, which random ones complete.
        evaluations: The most points to evaluate.
        seed: The seed of the sampler.
    """
    from optuna.samplers import NSGAIISampler

    evaluated = EvaluatedPoints(problem, evaluations)
    sampler = NSGAIISampler(population_size=_POPULATION, seed=seed % 2**32)
    study = QuietStudy(problem, objectives=2)
    for index in dict.fromkeys(start):
        study.enqueue(index)
    size = max(len(set(start)), _POPULATION)
    while not evaluated.spent:
        wanted = min(size, evaluated.limit - len(evaluated.values))
        waiting: dict[int, Trial] = {}
        fruitless = 0
        while len(waiting) < wanted and fruitless < _PATIENCE:
            trial, index = study.ask(sampler)
            if index in waiting or index in evaluated.values or not problem.within(index):
                # Pruned, so that a generation holds different points.
                fruitless += 1
                study.tell(trial, index)
            else:
                fruitless = 0
                waiting[index] = trial
        if not waiting:
            break
        evaluated.evaluate(waiting)
        for index, trial in waiting.items():
            study.tell(trial, index, problem.constraints[0].cost(index), evaluated.values[index])
        size = _POPULATION
    return evaluated
