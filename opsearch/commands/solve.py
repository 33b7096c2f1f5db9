"""`opsearch solve`: solve a run again from its stored measurements; no model is loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from opsearch.commands.search_result import SearchResult
from opsearch.errors import RunFolderError
from opsearch.problem.constraint import check_budget
from opsearch.problem.objective import PROXIES, Table
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Solution, Status
from opsearch.report.page import save_report
from opsearch.runs.choose import choose, unmeasured_hint
from opsearch.runs.config import RunConfig
from opsearch.runs.placing import place_of_solution
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
    *,
    replace: bool = False,
) -> SearchResult:
    """Solve a run again from its measurements and save the solution.

    Args:
        folder: The run folder.
        budget: Budgets; None, here and below: as in the run.
        objective: An objective whose measurements are stored.
        solver: A solver for the form of the objective.
        evaluations: Maximum number of points that the solver evaluates.
        seed: Seed of the solver.
        out: Folder for the results; None: a further answer of the run.
        replace: Write over the answer that the folder holds, and remove its comparison.

    Returns:
        The result, without a comparison.

    Raises:
        RunFolderError: The run lacks the measurements.
    """
    stored = RunConfig.load(RunFolder(folder).config)
    if objective not in (None, stored.objective) and solver is None:
        stored = stored.model_copy(update={"solver": None})
    given: dict[str, Any] = {"budget": budget, "objective": objective, "solver": solver}
    # Verification at another budget would need measurements that are not stored.
    given |= {"evaluations": evaluations, "out": out or folder, "verify": 0}
    changes = {name: value for name, value in given.items() if value is not None}
    config = stored.changed(**changes)
    with RunFolder(config.out).locked(), open_stored(folder, config) as run:
        problem, solution = _solved(run, seed)
        # Only a proxy is verified, by measurements with the saved settings.
        verify = stored.verify if problem.objective.form in PROXIES else 0
        if verify:
            note = f"{solution.note}; " if solution.note else ""
            again = f"`opsearch solve {folder} --verify {verify}`"
            note += f"proxy only: {again} measures its best policies"
            solution = dataclasses.replace(solution, note=note)
        # run.yaml keeps the run's seed, which determines the measured samples.
        kept = {"solver": solution.solver, "verify": verify}
        config = config.model_copy(update=kept)
        assert solution.policy is not None  # _solved() raises otherwise
        target = place_of_solution(config, run.folder, solution.policy, replace=replace)
        if target.measurements == run.folder.measurements:
            run.store.share_samples(target.name)
        config.save(target.config)
        policy = save_solution(dataclasses.replace(run, config=config), problem, solution, target)
        target.comparison.unlink(missing_ok=True)
        save_report(target.path)
    return SearchResult(
        policy=policy,
        config=config,
        problem=problem,
        solution=solution,
        comparison=None,
        folder=target.path,
    )


def _solved(run: StoredSearch, seed: int | None) -> tuple[Problem, Solution]:
    """Return the problem of the settings, made from stored measurements, and its solution."""
    settings = run.settings
    if seed is not None:
        settings = dataclasses.replace(settings, seed=RunConfig.checked(seed=seed).seed)
    space, objective = settings.space, settings.objective
    assert objective is not None  # a stored run names it
    objective.require(space)
    if objective.form == "table" and not space.listed:
        again = " --budget ".join(run.config.budget)
        raise RunFolderError(
            f"objective {objective.name!r} of space {space.name!r}, which is too large to list, is "
            f"measured during the search; use `opsearch run --config {run.folder.config} "
            f"--objective {objective.name} --budget {again}`{unmeasured_hint(settings)}"
        )
    choice = choose(settings, seconds=0.0, lazy=False)
    constraints = run.constraints(settings.budgets)
    check_budget(space, constraints)
    measure = run.measure(choice.objective)
    problem, solution = search(choice, settings, constraints, measure, run.noise_floor)
    return problem, dataclasses.replace(solution, note="; ".join(_notes(problem, solution, run)))


def _notes(problem: Problem, solution: Solution, run: StoredSearch) -> list[str]:
    """Return the solver's note, and the command that measures the points that may be better."""
    notes = [solution.note] if solution.note else []
    objective = problem.objective
    if solution.status is Status.OPTIMAL or not isinstance(objective, Table):
        return notes
    if np.isnan(objective.values[problem.feasible]).any():
        options = f"--objective {objective.name} --budget {' --budget '.join(run.config.budget)}"
        more = f"`opsearch run --config {run.folder.config} {options}` measures more"
        notes.append(f"{more}; with a larger --effort it measures all policies")
    return notes
