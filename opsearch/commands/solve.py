"""`opsearch solve`: solve a run again from its stored measurements; no model is loaded."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from opsearch.commands.search_result import SearchResult
from opsearch.commands.solved import changed_settings, save_solved
from opsearch.errors import RunFolderError
from opsearch.problem.constraint import check_budget
from opsearch.problem.objective import PROXIES, Table
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Solution, Status
from opsearch.runs.choose import choose, unmeasured_hint
from opsearch.runs.config import RunConfig
from opsearch.runs.run_folder import RunFolder
from opsearch.runs.search import search
from opsearch.runs.setup import FULL_SIZE
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
    verify = RunConfig.load(RunFolder(folder).config).verify
    # Verification at another budget would need measurements that are not stored.
    config = changed_settings(
        folder,
        budget=budget,
        objective=objective,
        solver=solver,
        evaluations=evaluations,
        out=out or folder,
        verify=0,
    )
    with RunFolder(config.out).locked(), open_stored(folder, config) as run:
        problem, solution = _solved(run, seed)
        assert solution.policy is not None  # a search raises where it finds no policy
        policy = dataclasses.replace(solution.policy, images=run.images)
        solution = dataclasses.replace(solution, policy=policy)
        # run.yaml keeps the run's seed, which determines the measured samples, and --verify, which
        # `opsearch run` follows; only a proxy is verified.
        verify = verify if problem.objective.form in PROXIES else 0
        config = config.model_copy(update={"solver": solution.solver, "verify": verify})
        run = dataclasses.replace(run, config=config)
        if verify:
            notes = [solution.note, _unverified(run, problem)]
            solution = dataclasses.replace(solution, note="; ".join(filter(None, notes)))
        return save_solved(run, problem, solution, run.folder, run.store, replace=replace)


def _unverified(run: StoredSearch, problem: Problem) -> str:
    """Say that only the proxy was solved, with the command that measures its best policies."""
    config = run.config
    words = ["opsearch", "solve", str(run.folder.path), "--objective", problem.objective.name]
    words += ["--solver", str(config.solver), *_budget_options(config)]
    command = shlex.join([*words, "--verify", str(config.verify)])
    return f"proxy only: `{command}` measures its best policies"


def _run_again(run: StoredSearch, objective: str) -> str:
    """Return the command that repeats the run for this objective and the budgets given here."""
    words = ["opsearch", "run", "--config", str(run.folder.config), "--objective", objective]
    return shlex.join([*words, *_budget_options(run.config)])


def _budget_options(config: RunConfig) -> list[str]:
    return [word for budget in config.budget for word in ("--budget", budget)]


def _solved(run: StoredSearch, seed: int | None) -> tuple[Problem, Solution]:
    """Return the problem of the settings, made from stored measurements, and its solution."""
    settings = run.settings
    if seed is not None:
        settings = dataclasses.replace(settings, seed=RunConfig.checked(seed=seed).seed)
    space, objective = settings.space, settings.objective
    assert objective is not None  # a stored run names it
    objective.require(space)
    if objective.form == "table" and not space.listed:
        raise RunFolderError(
            f"objective {objective.name!r} of space {space.name!r}, which is too large to list, is "
            f"measured during the search; use `{_run_again(run, objective.name)}`"
            f"{unmeasured_hint(settings)}"
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
    if run.settings.images != FULL_SIZE:
        share = 1 if run.images is None else run.images.share
        notes.append(
            f"images at {share} of the visual tokens, as in the answer of {run.folder.path}; "
            f"`{_run_again(run, problem.objective.name)}` searches all image settings"
        )
    objective = problem.objective
    if solution.status is Status.OPTIMAL or not isinstance(objective, Table):
        return notes
    if np.isnan(objective.values[problem.feasible]).any():
        more = f"`{_run_again(run, objective.name)}` measures more"
        notes.append(f"{more}; with a larger --effort it measures all policies")
    return notes
