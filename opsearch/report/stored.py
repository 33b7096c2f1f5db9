"""Reads what a run or a solve left in its folder; loads no model."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from opsearch.analysis.measured import Measured
from opsearch.config import RunConfig
from opsearch.environment import load_environment
from opsearch.errors import RunFolderError
from opsearch.policy import Policy
from opsearch.problem import Constraint
from opsearch.run_folder import RunFolder
from opsearch.stored_run import stored_run


@dataclass(frozen=True, eq=False)
class Stored:
    """The small files of a run folder.

    record: of the solve, as in solution.json; constraints: its budgets, without the costs of the
    space. front, comparison, environment: None where they are not known.
    """

    folder: RunFolder
    config: RunConfig
    policy: Policy
    record: dict[str, Any]
    constraints: tuple[Constraint, ...]
    front: pd.DataFrame | None
    comparison: pd.DataFrame | None
    environment: dict[str, Any] | None

    @cached_property
    def measured(self) -> Measured:
        """The divergences; RunFolderError where they are not here or not all."""
        return stored_run(self.folder.path)

    @property
    def again(self) -> str:
        """The command that makes all of it again."""
        return shlex.join(["opsearch", "run", "--config", str(self.folder.config)])


def read_stored(path: Path) -> Stored:
    """The results in a folder; RunFolderError when it holds none or they are damaged."""
    folder = RunFolder(path)
    config = RunConfig.load(folder.config)
    record = _record(folder)
    if record.get("settings", config.results_of) != config.results_of:
        raise RunFolderError(
            f"{folder.config} and {folder.solution} are of different runs, the later one was "
            f"stopped; `opsearch run --config {folder.config}` finishes it"
        )
    return Stored(
        folder,
        config,
        Policy.from_pretrained(path),
        record,
        _constraints(folder, record),
        _csv(folder.front),
        _csv(folder.comparison, index_col=0),
        load_environment(folder),
    )


def _record(folder: RunFolder) -> dict[str, Any]:
    again = f"`opsearch run --config {folder.config}` makes it"
    try:
        record: Any = json.loads(folder.solution.read_text(encoding="utf-8"))
        if not isinstance(record, dict):
            raise ValueError("it holds no record")
    except FileNotFoundError:
        raise RunFolderError(f"{folder.solution} does not exist; {again}") from None
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{folder.solution} cannot be read ({error}); {again}") from error
    return record


def _constraints(folder: RunFolder, record: dict[str, Any]) -> tuple[Constraint, ...]:
    try:
        return tuple(
            Constraint(
                name,
                record["units"][name],
                np.zeros(0, np.int64),
                limit,
                record["stock"][name],
                record["samples"],
            )
            for name, limit in record["limits"].items()
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(
            f"{folder.solution} is of another version or damaged (it lacks {error}); "
            f"`opsearch run --config {folder.config}` makes it again"
        ) from error


def _csv(path: Path, **options: Any) -> pd.DataFrame | None:
    if not path.exists():
        return None
    try:
        # Names are names: a family called "NA" is not a missing one.
        frame: pd.DataFrame = pd.read_csv(path, keep_default_na=False, na_values=[""], **options)
        if frame.empty:
            raise ValueError("it holds no rows")
    except (OSError, ValueError) as error:
        raise RunFolderError(
            f"{path} cannot be read ({error}); run or solve again into that folder"
        ) from error
    return frame
