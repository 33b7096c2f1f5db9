"""Proxy proposes, joint disposes: the best policies of a proxy are measured as they would run.

The proxy is corrected by what was measured, proposes again, and so on until the policy that it
likes best is the best that was measured, or the evaluations are spent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from opsearch.errors import OpsearchError
from opsearch.objectives import Maker
from opsearch.objectives.refit import refitted
from opsearch.problem import Blackbox, Objective, Pairwise, Problem, Separable
from opsearch.solution import Solution, Solver, Status, solution_at

EVALUATIONS = 150  # by default


@dataclass(frozen=True)
class Verified:
    """The problem with the joint objective, and its best measured point."""

    problem: Problem
    solution: Solution


def verify(
    problem: Problem, solver: Solver, joint: Blackbox, *, each: int, evaluations: int, seed: int
) -> Verified:
    """Measure the `each` best policies of a proxy, correct it, and repeat.

    evaluations: most policies that are measured. Raises OpsearchError for an objective that is no
    sum of terms.
    """
    started, proxy = perf_counter(), problem.objective
    require_proxy(proxy)
    assert isinstance(proxy, Separable | Pairwise)  # the two forms that are proxies
    known: dict[int, float] = {}
    first, rounds, settled = -1, 0, False
    while len(known) < evaluations and not settled:
        corrected = proxy if not known else _refitted(proxy, known, joint.quantum)
        asked = replace(problem, objective=corrected)
        favourite = _solve(asked, solver, seed)
        if favourite is None:
            break
        settled = bool(known) and favourite == _best(problem, known)
        if not settled:
            proposed = _proposals(asked, solver, seed, known, min(each, evaluations - len(known)))
            if not proposed:
                break
            first = proposed[0] if not known else first
            values = joint.evaluate(proposed)
            known |= dict(zip(proposed, values.tolist(), strict=True))
            rounds += 1
    end = "there were no others"
    if settled:
        end = "the proxy's favourite is the best of them"
    elif len(known) >= evaluations:
        end = "the evaluations were spent"
    counted = f"{rounds} round{'s' if rounds > 1 else ''} until {end}"
    found = _verified(problem, joint, solver, known, first, counted)
    timed = replace(found.solution, seed=seed, seconds=perf_counter() - started)
    return replace(found, solution=timed)


def require_proxy(objective: Objective | Maker) -> None:
    """Raise OpsearchError for an objective that proposes nothing: it is no sum of terms."""
    if objective.form not in ("separable", "pairwise"):
        raise OpsearchError(
            f"--verify measures what a proxy proposes, but objective {objective.name!r} is none; "
            "add --objective additive or pairwise, or leave it out"
        )


def _proposals(
    problem: Problem, solver: Solver, seed: int, known: dict[int, float], count: int
) -> list[int]:
    """The points with the lowest values that were not measured yet."""
    found: list[int] = []
    while len(found) < count:
        excluded = frozenset([*known, *found])
        index = _solve(replace(problem, excluded=excluded), solver, seed)
        if index is None:
            break
        found.append(index)
    return found


def _solve(problem: Problem, solver: Solver, seed: int) -> int | None:
    """The solver's point, None where it finds none."""
    return solver.solve(problem, seed=seed).index if problem.solvable else None


def _refitted(
    proxy: Separable | Pairwise, known: dict[int, float], quantum: float
) -> Separable | Pairwise:
    measured = {index: value for index, value in known.items() if not np.isnan(value)}
    values = np.array(list(measured.values()))
    return replace(refitted(proxy, list(measured), values), quantum=quantum)


def _best(problem: Problem, known: dict[int, float]) -> int:
    """The measured point of the lowest value, then cost, then number."""
    costs = problem.constraints[0].cost if problem.constraints else lambda index: 0
    values = {index: np.inf if np.isnan(value) else value for index, value in known.items()}
    return min(known, key=lambda index: (values[index], costs(index), index))


def _verified(
    problem: Problem,
    joint: Blackbox,
    solver: Solver,
    known: dict[int, float],
    first: int,
    counted: str,
) -> Verified:
    def remembered(indices: Sequence[int]) -> NDArray[np.float64]:
        return np.array([known[index] for index in indices])

    answered = replace(problem, objective=replace(joint, evaluate=remembered))
    if not known:
        note = f"{problem.objective.name} proposed no policy within the budget"
        nothing = Solution(Status.UNKNOWN, solver.name, joint.name, joint.unit, note=note)
        return Verified(answered, nothing)
    best = _best(problem, known)
    note = (
        f"{problem.objective.name} proposed, joint disposed: {len(known)} policies measured in "
        f"{counted}; true KL {known[first]:.3f} of the proxy's first, {known[best]:.3f} of the best"
    )
    solution = solution_at(
        answered, best, Status.FEASIBLE, solver.name, evaluations=len(known), note=note
    )
    return Verified(answered, solution)
