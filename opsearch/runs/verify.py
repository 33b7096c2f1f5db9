"""Correction of a proxy with true measurements.

The best policies of the proxy are measured, the proxy is fitted to these values, and its new best
policies are measured, until the best one is already the best measured policy or the evaluations are
used up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from opsearch.errors import OpsearchError
from opsearch.problem.objective import (
    KL_DECIMALS,
    PROXIES,
    Blackbox,
    Choice,
    Objective,
    Pair,
    Pairwise,
    Separable,
)
from opsearch.problem.objective_factory import ObjectiveFactory
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Limit, Solution, Solver, confirmed, reraise_interrupt
from opsearch.solvers.evaluated import EvaluatedPoints

EVALUATIONS = 150  # default
PROPOSAL = Limit(deterministic_time=5.0)
"""Limit of one proposal, which needs no proof, because it is measured."""
_NOISE = 1e-3  # of the variance that one coefficient gives


def corrected_proxy(
    proxy: Separable | Pairwise, indices: Sequence[int], values: NDArray[np.float64]
) -> Separable | Pairwise:
    """Change the coefficients of a proxy so that it has given values at given points.

    Choices that prune nothing have no coefficient, so the value of the original is unchanged.

    Args:
        proxy: The proxy.
        indices: Numbers of the points.
        values: Their values, float64[n].
    """
    rows = [proxy.space.row(index) for index in indices]
    choices = _pruning(proxy)
    pairs = list(proxy.pairs) if isinstance(proxy, Pairwise) else []
    present = _present(rows, choices, pairs)
    missing = values - np.array([proxy.value(index) for index in indices])
    kernel = present @ present.T + _NOISE * np.eye(len(rows))
    change = present.T @ np.linalg.solve(kernel, missing)
    terms = [term.copy() for term in proxy.terms]
    for (k, i), effect in zip(choices, change, strict=False):
        terms[k][i] = round(float(terms[k][i] + effect), KL_DECIMALS)
    if not isinstance(proxy, Pairwise):
        return replace(proxy, terms=tuple(terms))
    effects = zip(proxy.pairs.items(), change[len(choices) :], strict=True)
    together = {p: round(float(old + effect), KL_DECIMALS) for (p, old), effect in effects}
    return replace(proxy, terms=tuple(terms), pairs=together)


def _pruning(proxy: Separable | Pairwise) -> list[Choice]:
    return [(k, i) for k, term in enumerate(proxy.terms) for i in range(len(term) - 1)]


def _present(
    rows: Sequence[tuple[int, ...]], choices: Sequence[Choice], pairs: Sequence[Pair]
) -> NDArray[np.float64]:
    """Return 1 for each choice or pair that a row contains, else 0, float64[rows, coefficients]."""
    alone = np.array([[row[k] == i for k, i in choices] for row in rows], float)
    together = [[row[k] == i and row[m] == j for (k, i), (m, j) in pairs] for row in rows]
    return np.concatenate([alone, np.array(together, float).reshape(len(rows), -1)], axis=1)


def verify(
    problem: Problem, solver: Solver, joint: Blackbox, *, each: int, evaluations: int, seed: int
) -> Solution:
    """Measure the best policies of a proxy, correct the proxy, and repeat.

    Args:
        problem: The problem with the proxy as objective.
        solver: Solver of the proxy.
        joint: The true objective.
        each: Number of policies per round.
        evaluations: Largest number of measured policies.
        seed: Seed of the solver.

    Returns:
        The best measured policy, with its true value.

    Raises:
        OpsearchError: The objective is not a sum of terms.
    """
    started, proxy = perf_counter(), problem.objective
    require_proxy(proxy)
    assert isinstance(proxy, Separable | Pairwise)  # the two forms that are proxies
    evaluated, rounds = EvaluatedPoints(replace(problem, objective=joint), evaluations), 0
    while not evaluated.spent:
        corrected = replace(problem, objective=_corrected(proxy, evaluated))
        optimum = _solve(corrected, solver, seed)
        if optimum is not None and optimum == evaluated.best():
            end = "the proxy's optimum is the best measured policy"
            break
        proposed = _proposals(corrected, solver, seed, evaluated, each)
        if not proposed:
            end = "no unmeasured policy was left"
            break
        evaluated.evaluate(proposed)
        rounds += 1
    else:
        end = "the limit of evaluations was reached"
    counted = f"{rounds} round{'s' if rounds > 1 else ''} until {end}"
    solution = evaluated.solution(
        evaluated.best(), solver.name, _note(proxy.name, evaluated, counted)
    )
    return replace(solution, seed=seed, seconds=perf_counter() - started)


def require_proxy(objective: Objective | ObjectiveFactory) -> None:
    """Raise OpsearchError if the objective is not a proxy, which is a sum of terms."""
    if objective.form not in PROXIES:
        raise OpsearchError(
            f"--verify measures the proposals of a proxy, and objective {objective.name!r} is not "
            "one; remove it, or add --objective additive or pairwise in space dop, depth, layers "
            "or operations"
        )


def _corrected(proxy: Separable | Pairwise, evaluated: EvaluatedPoints) -> Separable | Pairwise:
    """Return the proxy, fitted to the measured values."""
    measured = {index: value for index, value in evaluated.values.items() if not np.isnan(value)}
    if not measured:
        return proxy
    fitted = corrected_proxy(proxy, list(measured), np.array(list(measured.values())))
    return replace(fitted, quantum=evaluated.problem.objective.quantum)


def _proposals(
    problem: Problem, solver: Solver, seed: int, evaluated: EvaluatedPoints, each: int
) -> list[int]:
    """Return the unmeasured points with the lowest values."""
    found: list[int] = []
    while len(found) < min(each, evaluated.limit - len(evaluated.values)):
        excluded = frozenset([*evaluated.values, *found])
        index = _solve(replace(problem, excluded=excluded), solver, seed)
        if index is None:
            break
        found.append(index)
    return found


def _solve(problem: Problem, solver: Solver, seed: int) -> int | None:
    """Return the solver's point; None if it finds none."""
    if not problem.solvable:
        return None
    solution = solver.solve(problem, seed=seed, limit=PROPOSAL)
    return confirmed(problem, reraise_interrupt(solution)).index


def _note(proxy: str, evaluated: EvaluatedPoints, counted: str) -> str:
    best, values = evaluated.best(), list(evaluated.values.values())
    if not values:
        return f"{proxy} proposed no policy within the budget"
    note = f"{proxy} corrected by true KL: {len(values)} policies measured in {counted}"
    if best is None:
        return note
    first, last = values[0], evaluated.values[best]
    return f"{note}; true KL {first:.3f} of the first proposal, {last:.3f} of the best"
