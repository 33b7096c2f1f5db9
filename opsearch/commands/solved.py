"""The settings and the answer of a solve, from stored measurements or with further ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from opsearch.commands.search_result import SearchResult
from opsearch.measure.storage.store import Store
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Solution
from opsearch.report.page import save_report
from opsearch.runs.config import RunConfig
from opsearch.runs.placing import folder_for_solution
from opsearch.runs.results import Searched, save_solution
from opsearch.runs.run_folder import RunFolder


def changed_settings(folder: Path, **given: Any) -> RunConfig:
    """Return the settings of a run with those given in place of its own; None leaves one as it is.

    Another objective is solved by its default solver, unless one is given.
    """
    stored = RunConfig.load(RunFolder(folder).config)
    changes = {name: value for name, value in given.items() if value is not None}
    config = stored.changed(**changes)
    if config.objective != stored.objective and "solver" not in changes:
        config = config.model_copy(update={"solver": None})
    return config


def save_solved(
    searched: Searched,
    problem: Problem,
    solution: Solution,
    run: RunFolder,
    store: Store,
    *,
    replace: bool,
    measured: int = 0,
) -> SearchResult:
    """Write the answer of a solve beside those of the run, or to `out` of its settings.

    Args:
        searched: The search, with its settings.
        problem: The problem.
        solution: Its solution, with a policy.
        run: The folder that was solved, whose lock is held.
        store: Its measurements.
        replace: Write over the answer that the folder holds, and remove its comparison.
        measured: Policies that were measured for it; 0 if it used stored measurements.

    Raises:
        RunFolderError: The folder holds files of another origin.
    """
    assert solution.policy is not None  # a search raises where it finds no policy
    folder = folder_for_solution(
        searched, run, solution.policy, replace=replace, verified=measured > 0
    )
    if folder.shares_measurements(run):
        store.share_samples(folder.name)
    searched.config.save(folder.config)
    policy = save_solution(searched, problem, solution, folder, measured)
    if replace:
        folder.comparison.unlink(missing_ok=True)
    save_report(folder.path)
    return SearchResult(
        policy=policy,
        config=searched.config,
        problem=problem,
        solution=solution,
        comparison=None,
        folder=folder.path,
    )
