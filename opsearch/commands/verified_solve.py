"""`opsearch solve --verify`: solve a run again, and measure the best policies of the proxy."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from rich.console import Console

from opsearch.commands.run import answered
from opsearch.commands.search_result import SearchResult
from opsearch.commands.solved import changed_settings, save_solved
from opsearch.console import PlainConsole
from opsearch.errors import RunFolderError
from opsearch.progress import Progress
from opsearch.runs.config import RunConfig
from opsearch.runs.placing import require_own
from opsearch.runs.prepare import Prepared, prepare, settle
from opsearch.runs.run_folder import RunFolder
from opsearch.runs.session import Session, open_session

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
    source, target = RunFolder(folder), RunFolder(out or folder)
    if not (replace or target.is_same(source)):
        require_own(target)
    given = {"budget": budget, "objective": objective, "solver": solver}
    config = changed_settings(
        folder, **given, evaluations=evaluations, verify=verify, out=target.path
    )
    settled = settle(config)
    progress = Progress(console or PlainConsole(stderr=True), _STAGES + settled.settings.timed)
    prepared = prepare(settled, progress, test=0)
    if seed is not None:  # that of the run also determines the measured samples
        checked = RunConfig.checked(seed=seed).seed
        settings = dataclasses.replace(prepared.settings, seed=checked)
        prepared = dataclasses.replace(prepared, settings=settings)
    with (
        nullcontext() if target.shares_measurements(source) else target.locked(),
        open_session(prepared, source, progress, continued=True) as session,
    ):
        _check_samples(prepared, session)
        problem, solution, measured = answered(prepared, session)
        return save_solved(
            prepared,
            problem,
            solution,
            source,
            session.store,
            replace=replace,
            measured=measured,
        )


def _check_samples(prepared: Prepared, session: Session) -> None:
    """Raise RunFolderError if the data do not give the samples of the run any more."""
    drawn = [sample.digest for sample in prepared.calibration]
    if drawn != [sample.item for sample in session.store.calibration()]:
        raise RunFolderError(
            f"the data of {session.folder.path} changed since its run; `opsearch run --config "
            f"{session.folder.config}` searches on the present ones"
        )
