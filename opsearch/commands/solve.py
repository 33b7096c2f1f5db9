"""`opsearch solve`: solve again from what a run stored; no model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from opsearch.errors import RunFolderError
from opsearch.problem.constraint import check_budget
from opsearch.problem.objective import Table
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Solution
from opsearch.report.page import save_report
from opsearch.runs.choose import choose
from opsearch.runs.config import RunConfig
from opsearch.runs.results import save_solution
from opsearch.runs.run_folder import RunFolder
from opsearch.runs.search import search
from opsearch.runs.stored import StoredSearch, open_stored


def solve(
    folder: Path,
    budget: Sequence[str] | None = None,
    objective: str | None = None,
    solver: str | None = None,
    evaluations: int | None = None,
    seed: int | None = None,
    out: Path | None = None,
) -> tuple[Problem, Solution, Path]:
    """Solve a run's problem from its measurements, and save the answer.

    Args:
        folder: The run folder.
        budget: Budgets; None, here and below: as the run had it.
        objective: An objective whose measurements the run holds.
        solver: A solver that takes the objective.
        evaluations: Most points that the solver evaluates.
        seed: Seeds the solver.
        out: Where to write; None: the run folder, whose comparison of the earlier policy goes.

    Returns:
        The problem, its solution, and the folder that was written.

    Raises:
        RunFolderError: The run lacks the measurements.
    """
    stored = RunConfig.load(RunFolder(folder).config)
    if objective not in (None, stored.objective) and solver is None:
        stored = stored.model_copy(update={"solver": None})
    given: dict[str, Any] = {"budget": budget, "objective": objective, "solver": solver}
    # What another budget's proxy would propose was not measured.
    given |= {"evaluations": evaluations, "out": out or folder, "verify": 0}
    changes = {name: value for name, value in given.items() if value is not None}
    config = RunConfig.checked(**{**stored.model_dump(), **changes})
    with RunFolder(out or folder).locked() as target, open_stored(folder, config) as run:
        problem, solution = _solved(run, seed)
        if stored.verify:
            note = f"{solution.note}; " if solution.note else ""
            note += "the proxy alone: --verify of `opsearch run` measures anew"
            solution = replace(solution, note=note)
        # The run's own seed says which samples were measured and stays in run.yaml.
        config = config.model_copy(update={"solver": solution.solver})
        config.save(target.config)
        save_solution(replace(run, config=config), problem, solution, target)
        target.comparison.unlink(missing_ok=True)
        save_report(target.path)
        return problem, solution, target.path


def _solved(run: StoredSearch, seed: int | None) -> tuple[Problem, Solution]:
    """Return the problem of the settings from what is stored, and its solution."""
    settings = run.settings
    if seed is not None:
        settings = replace(settings, seed=RunConfig.checked(seed=seed).seed)
    space, objective = settings.space, settings.objective
    assert objective is not None  # a stored run names it
    objective.require(space)
    if objective.name == "joint" and not space.listed:
        again = " --budget ".join(run.config.budget)
        raise RunFolderError(
            f"space {space.name!r} is too large to list, so joint is measured on demand; "
            f"`opsearch run --config {run.folder.config} --objective joint --budget {again}` does "
            "that"
        )
    choice = choose(settings, seconds=0.0, lazy=False)
    constraints = run.constraints(settings.budgets)
    check_budget(space, constraints)
    measure = run.measure(choice.objective)
    problem, solution = search(choice, settings, constraints, measure, run.noise_floor)
    return problem, replace(solution, note="; ".join(_notes(problem, solution, run)))


def _notes(problem: Problem, solution: Solution, run: StoredSearch) -> list[str]:
    """Return the solver's note, and what measures the points that could not be looked up."""
    notes = [solution.note] if solution.note else []
    made = problem.objective
    if isinstance(made, Table) and np.isnan(made.values[problem.feasible]).any():
        options = f"--objective {made.name} --budget {' --budget '.join(run.config.budget)}"
        more = f"`opsearch run --config {run.folder.config} {options}` measures more"
        notes.append(f"{more}, with enough --effort all")
    return notes
