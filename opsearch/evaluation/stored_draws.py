"""Stored results of the last `opsearch compare --draws` of a run; loads no model."""

from __future__ import annotations

import json
from pathlib import Path

from opsearch.analysis.equal_cost import Comparison
from opsearch.errors import RunFolderError
from opsearch.evaluation.stored import stored_comparison
from opsearch.files import write_text
from opsearch.measure.storage.records import COMPARED
from opsearch.measure.storage.store import Store
from opsearch.runs.run_folder import RunFolder


def draw_folder(run: RunFolder, draw: int) -> RunFolder:
    """Return the folder of a draw in a run folder."""
    return RunFolder(run.draws / str(draw))


def begin_draws(run: RunFolder) -> None:
    """Remove the record that draws are finished."""
    _record(run).unlink(missing_ok=True)


def finish_draws(run: RunFolder, draws: int) -> None:
    """Record that this many draws were compared on the same test samples."""
    write_text(_record(run), json.dumps({"draws": draws}) + "\n")


def has_draws(folder: Path) -> bool:
    """Return whether a run holds a finished comparison over draws."""
    return _record(RunFolder(folder)).exists()


def stored_draws(folder: Path) -> list[Comparison]:
    """Return the comparison of each draw of a run.

    Raises:
        RunFolderError: The run holds no finished comparison over draws, or a damaged one.
    """
    run = RunFolder(folder)
    again = f"`opsearch compare {folder} --draws 5`"
    if not has_draws(folder):
        raise RunFolderError(
            f"{folder} holds no finished comparison over draws; {again} makes one, or goes on "
            "where it stopped"
        )
    try:
        draws = range(int(json.loads(_record(run).read_text(encoding="utf-8"))["draws"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{_record(run)} is damaged ({error}); repeat {again}") from error
    folders = [draw_folder(run, draw) for draw in draws]
    tested = {_tested(each) for each in folders}
    if len(tested) > 1:
        raise RunFolderError(
            f"the draws in {run.draws} were compared on different test samples, because one was "
            f"changed since; repeat {again}"
        )
    return [stored_comparison(each.path) for each in folders]


def _record(run: RunFolder) -> Path:
    return run.draws / "draws.json"


def _tested(folder: RunFolder) -> tuple[str, ...]:
    """Return the digests of the test samples of a draw."""
    with Store(folder.measurements, result=folder.name) as store:
        return tuple(sample.item for sample in store.samples(COMPARED))
