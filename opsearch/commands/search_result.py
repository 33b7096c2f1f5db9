"""Result of a search in Python and notebooks."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from opsearch.analysis.heatmap import draw_heatmap
from opsearch.errors import RunFolderError
from opsearch.formatting import on_screen
from opsearch.measure.storage.store import Store
from opsearch.policy.policy import Policy
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Solution, Status, statement
from opsearch.report.page import save_report
from opsearch.report.svg import inline
from opsearch.runs.config import RunConfig
from opsearch.runs.run_folder import ANSWERS, RunFolder

if TYPE_CHECKING:
    from opsearch.timing.policy_latency import TimedPrefill


@dataclass(frozen=True, eq=False, kw_only=True)
class SearchResult:
    """Policy found by a search, with its problem, solution and comparison.

    Attributes:
        policy: The policy, as saved in the run folder.
        config: The settings, all defaults resolved.
        problem: The problem that was solved.
        solution: Its solution: status, bound, gap, evaluations, seconds, note.
        comparison: Methods as columns; costs, KL and accuracies as rows. None after a solve from
            stored measurements.
        folder: The run folder.
        prefill: Predicted and measured prefill time of the policy; None without a time budget.
        images: A line for each image setting: shares of tokens, tower, decoder and whole, and KL.
            None if none was searched.
    """

    policy: Policy
    config: RunConfig
    problem: Problem
    solution: Solution
    comparison: pd.DataFrame | None
    folder: Path
    prefill: TimedPrefill | None = None
    images: pd.DataFrame | None = None

    @property
    def value(self) -> float:
        """The objective of the policy, in `solution.unit`."""
        assert self.solution.value is not None  # a search raises where it finds no policy
        return self.solution.value

    @property
    def status(self) -> Status:
        """Status of the solution; `status.sentence` describes it."""
        return self.solution.status

    @property
    def costs(self) -> dict[str, str]:
        """Costs of the policy by name, as share of the original model's and mean per sample."""
        costs = self.solution.costs
        return {c.name: c.describe(costs[c.name]) for c in self.problem.constraints}

    def save(self, folder: str | Path) -> Path:
        """Write this answer as a whole run folder: policy, settings, measurements, report.

        Args:
            folder: A new or empty folder.

        Returns:
            The folder, for `opsearch solve`, `front`, `show` and all other commands on runs.

        Raises:
            RunFolderError: The folder is not empty.
        """
        target = Path(folder)
        if target.exists() and any(target.iterdir()):
            raise RunFolderError(f"{target} is not empty; give a new folder")
        source = RunFolder(self.folder)
        ignored = shutil.ignore_patterns(".lock", ANSWERS)
        shutil.copytree(source.path, target, dirs_exist_ok=True, ignore=ignored)
        if source.name:
            _take_from_run(source, RunFolder(target))
        self.config.model_copy(update={"out": target}).save(RunFolder(target).config)
        save_report(target)
        return target

    @property
    def _setting(self) -> dict[str, str]:
        """The image setting, if the policy has one."""
        return {} if self.policy.images is None else {"images": str(self.policy.images)}

    def __repr__(self) -> str:
        facts = {
            "policy": self.policy.name,
            self.solution.objective: f"{self.value:.4g} {self.solution.unit}",
            **self.costs,
            **self._setting,
            "status": str(self.status),
            "folder": str(self.folder),
        }
        return on_screen("SearchResult", facts)

    def _repr_html_(self) -> str:
        """Return the heat map of the policy and its table, for notebooks."""
        facts = {
            "policy": self.policy.name,
            self.solution.objective: f"{self.value:.4g} {self.solution.unit}",
            **self.costs,
            **self._setting,
            "status": ": ".join(statement(self.status, self.problem.objective)),
        }
        rows = "".join(
            f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>"
            for name, text in facts.items()
        )
        figure = inline(draw_heatmap(self.policy), "policy", "Share of the visual tokens")
        table = "" if self.comparison is None else self.comparison.round(2).to_html(na_rep="")
        return f"<table>{rows}</table>{figure}{table}"


def _take_from_run(source: RunFolder, target: RunFolder) -> None:
    """Copy what a further answer shares with its run, as if it were the only one."""
    with Store(source.measurements, result=source.name) as store:
        store.copy_to(target.measurements)
    if source.latency.exists():
        shutil.copy(source.latency, target.path)
