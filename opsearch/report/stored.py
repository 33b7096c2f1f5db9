"""Stored results of a run folder; loads no model."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from opsearch import registry
from opsearch.analysis.measured import Measured
from opsearch.errors import RunFolderError
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import parse_ranker
from opsearch.problem.constraint import Constraint, Vision
from opsearch.problem.spaces.base import Space
from opsearch.runs.config import RunConfig
from opsearch.runs.environment import load_environment
from opsearch.runs.run_folder import RunFolder
from opsearch.runs.setup import SearchSettings, resolve
from opsearch.runs.stored import stored_alone, stored_run


@dataclass(frozen=True, eq=False)
class Stored:
    """The small files of a run folder.

    Attributes:
        folder: The folder.
        config: Its configuration.
        policy: The chosen policy.
        record: Record of the solution, as in solution.json.
        constraints: Its budgets, without the costs of the space.
        front: The front, None if unknown.
        comparison: The comparison, None if unknown.
        environment: The environment, None if unknown.
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
        """Divergences of the run.

        Raises:
            RunFolderError: They are missing or incomplete.
        """
        return stored_run(self.folder.path)

    @cached_property
    def measured_alone(self) -> Measured:
        """Divergences of single parameters, nan where unknown.

        Raises:
            OpsearchError: Single parameters of the space prune nothing.
        """
        return stored_alone(self.folder.path)

    @cached_property
    def settings(self) -> SearchSettings:
        """The settings in typed parts."""
        ranker = parse_ranker(str(self.config.ranker))
        return resolve(self.config, self.policy.num_layers, ranker)

    @property
    def space(self) -> Space:
        """The space that was searched."""
        return self.settings.space

    @property
    def again(self) -> str:
        """Command that reproduces the run."""
        return shlex.join(["opsearch", "run", "--config", str(self.folder.config)])


def read_stored(path: Path) -> Stored:
    """Read the results in a folder.

    Raises:
        RunFolderError: It holds none, or damaged ones.
    """
    folder = RunFolder(path)
    config = RunConfig.load(folder.config)
    record = solution_record(folder)
    # Settings missing from the record take their defaults, as those missing from run.yaml do.
    searched = RunConfig.checked().results_of | record.get("settings", config.results_of)
    if searched != config.results_of:
        raise RunFolderError(
            f"{folder.config} and {folder.solution} belong to different runs, because the later "
            f"one was interrupted; finish it with `opsearch run --config {folder.config}`"
        )
    return Stored(
        folder=folder,
        config=config,
        policy=Policy.from_pretrained(path),
        record=record,
        constraints=_constraints(folder, record),
        front=_csv(folder.front),
        comparison=_csv(folder.comparison, index_col=0),
        environment=load_environment(folder),
    )


def solution_record(folder: RunFolder) -> dict[str, Any]:
    """Return the content of solution.json.

    Raises:
        RunFolderError: The file is missing or damaged.
    """
    again = f"create it with `opsearch run --config {folder.config}`"
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
        vision = record.get("vision", {})  # earlier versions counted no images
        return tuple(
            Constraint(
                name=name,
                unit=record["units"][name],
                costs=np.zeros(0, np.int64),
                limit=limit,
                stock=record["stock"][name],
                samples=record["samples"],
                timed=registry.lookup("costs", name).timed,
                vision=Vision(**vision[name]) if name in vision else None,
            )
            for name, limit in record["limits"].items()
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(
            f"{folder.solution} is damaged or of another version (it lacks {error}); create it "
            f"again with `opsearch run --config {folder.config}`"
        ) from error


def _csv(path: Path, **options: Any) -> pd.DataFrame | None:
    if not path.exists():
        return None
    try:
        # Text stays text: a family called "NA" is not missing.
        frame: pd.DataFrame = pd.read_csv(path, keep_default_na=False, na_values=[""], **options)
        if frame.empty:
            raise ValueError("it holds no rows")
    except (OSError, ValueError) as error:
        raise RunFolderError(
            f"{path} cannot be read ({error}); write it again with `opsearch run` or `opsearch "
            "solve`"
        ) from error
    return frame
