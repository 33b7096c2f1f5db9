"""A run folder as a Python object."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from opsearch.commands import python_api
from opsearch.commands.export import measurements
from opsearch.commands.front import Front
from opsearch.commands.search_result import SearchResult
from opsearch.data.groups import item_links, unseen_rows
from opsearch.data.item import Item
from opsearch.policy.policy import Policy
from opsearch.report.stored import solution_record
from opsearch.runs.config import RunConfig
from opsearch.runs.run_folder import RunFolder
from opsearch.runs.stored import stored_outcome


class Run:
    """A run folder: settings, policy, solution, comparison and measurements; no model is loaded.

    Each attribute is read from the folder when it is used. Searches and solves with other settings
    leave it as it is; theirs are among its `answers`.

    Args:
        path: The folder.

    Raises:
        RunFolderError: The folder holds no run or a damaged one; also raised by the attributes.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        RunConfig.load(RunFolder(self.path).config)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def answers(self) -> dict[str, Run]:
        """The further answers of the run by name, each with the attributes of a run."""
        return {each.name: Run(each.path) for each in RunFolder(self.path).further}

    @property
    def config(self) -> RunConfig:
        """The settings, all defaults resolved."""
        return RunConfig.load(RunFolder(self.path).config)

    @property
    def policy(self) -> Policy:
        """The policy found by the search.

        Raises:
            PolicyError: The search has not finished.
        """
        return Policy.from_pretrained(self.path)

    @property
    def solution(self) -> dict[str, Any]:
        """Contents of solution.json.

        Raises:
            RunFolderError: The search has not finished.
        """
        return solution_record(RunFolder(self.path))

    @property
    def comparison(self) -> pd.DataFrame:
        """The comparison with baselines, methods as columns.

        Raises:
            RunFolderError: There is none, as after a solve from stored measurements.
        """
        return stored_outcome(self.path).comparison

    @property
    def measurements(self) -> pd.DataFrame:
        """All stored divergences, one row per policy and sample."""
        return measurements(self.path)

    def unseen(self, items: Sequence[Item]) -> list[Item]:
        """Return the items to judge the policy on: those that share nothing with its search.

        Items on which it was searched are left out, and items that share an image or a group with
        those, directly or by way of other items.

        Args:
            items: The items.

        Raises:
            RunFolderError: The folder does not list what the search saw.
        """
        seen = RunFolder(self.path).seen()
        unseen = unseen_rows([item_links(item) for item in items], seen)
        return [item for item, alone in zip(items, unseen, strict=True) if alone]

    def solve(self, **changes: Any) -> SearchResult:
        """Solve again from stored measurements, with the arguments of `opsearch.solve`."""
        return python_api.solve(self.path, **changes)

    def front(self, *, cost: str = "flops") -> Front:
        """Return the exact Pareto front of the measurements."""
        return python_api.front(self.path, cost=cost)
