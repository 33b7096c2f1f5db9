"""`opsearch solve --verify`: solve a run again, and measure the best policies of the proxy."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from opsearch.commands.run import answered
from opsearch.commands.search_result import SearchResult
from opsearch.console import PlainConsole
from opsearch.progress import Progress
from opsearch.report.page import save_report
from opsearch.runs.config import RunConfig
from opsearch.runs.placing import place_of_solution
from opsearch.runs.prepare import prepare, settle
from opsearch.runs.results import save_solution
from opsearch.runs.run_folder import RunFolder
from opsearch.runs.session import open_session

_STAGES = 3  # encoding, loading the model, measuring


def solve_verified(
    folder: Path,
    verify: int,
    *,
    budget: Sequence[str] | None = None,
    objective: str | None = None,
    solver: str | None = None,
    evaluations: int | None = None,
    seed: int | None = None,
    out: Path | None = None,
    replace: bool = False,
    console: Console | None = None,
) -> SearchResult:
    """Solve a run again, with the best policies of its proxy measured, and save the solution.

    The model is loaded again and measures on the run's samples; measurements stay in its folder.

    Args:
        folder: The run folder.
        verify: Number of proposals of the proxy that are measured per round.
        budget: Budgets; None, here and below: as in the run.
        objective: The proxy.
        solver: A solver for the form of the proxy.
        evaluations: Maximum number of policies to measure.
        seed: Seed of the solver.
        out: Folder for the results; None: a further answer of the run.
        replace: Write over the answer that the folder holds, and remove its comparison.
        console: Console for progress; None: standard error.

    Returns:
        The result, without a comparison.

    Raises:
        OpsearchError: The objective is no proxy, or the search ends without a policy.
    """
    stored = RunConfig.load(RunFolder(folder).config)
    if objective not in (None, stored.objective) and solver is None:
        stored = stored.model_copy(update={"solver": None})
    given: dict[str, Any] = {"budget": budget, "objective": objective, "solver": solver}
    given |= {"evaluations": evaluations, "verify": verify, "out": folder}
    changes = {name: value for name, value in given.items() if value is not None}
    settled = settle(stored.changed(**changes))
    progress = Progress(console or PlainConsole(stderr=True), _STAGES + settled.settings.timed)
    prepared = prepare(settled, progress, test=0)
    if seed is not None:  # that of the run also determines the measured samples
        checked = RunConfig.checked(seed=seed).seed
        settings = dataclasses.replace(prepared.settings, seed=checked)
        prepared = dataclasses.replace(prepared, settings=settings)
    source = RunFolder(folder)
    config = prepared.config.model_copy(update={"out": out or folder})
    prepared = dataclasses.replace(prepared, config=config)
    with open_session(prepared, source, progress, continued=True) as session:
        problem, solution, measured = answered(prepared, session)
        assert solution.policy is not None  # answered() raises otherwise
        target = place_of_solution(config, source, solution.policy, replace=replace)
        if target.measurements == source.measurements:
            session.store.share_samples(target.name)
        config.save(target.config)
        policy = save_solution(prepared, problem, solution, target, measured)
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
