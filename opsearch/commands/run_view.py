"""A run folder as a Python object."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from opsearch.commands import python_api
from opsearch.commands.export import measurements
from opsearch.commands.front import Front
from opsearch.commands.search_result import SearchResult
from opsearch.policy.policy import Policy
from opsearch.runs.config import RunConfig
from opsearch.runs.run_folder import RunFolder
from opsearch.runs.stored import stored_outcome


class Run:
    """A run folder: settings, policy, solution, comparison and measurements; no model is loaded.

    Args:
        path: The folder.

    Raises:
        RunFolderError: The folder holds no run or a damaged one.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = RunConfig.load(RunFolder(self.path).config)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @cached_property
    def policy(self) -> Policy:
        """The policy found by the search."""
        return Policy.from_pretrained(self.path)

    @cached_property
    def solution(self) -> dict[str, Any]:
        """Contents of solution.json."""
        record: dict[str, Any] = json.loads(
            RunFolder(self.path).solution.read_text(encoding="utf-8")
        )
        return record

    @property
    def comparison(self) -> pd.DataFrame:
        """The comparison with baselines, methods as columns."""
        return stored_outcome(self.path).comparison

    @property
    def measurements(self) -> pd.DataFrame:
        """All stored divergences, one row per policy and sample."""
        return measurements(self.path)

    def solve(self, **changes: Any) -> SearchResult:
        """Solve again from stored measurements, with the arguments of `opsearch.solve`."""
        return python_api.solve(self.path, **changes)

    def front(self, *, cost: str = "flops") -> Front:
        """Return the exact Pareto front of the measurements."""
        return python_api.front(self.path, cost=cost)
