"""The result of a search, as Python and notebooks see it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from opsearch.analysis.heatmap import draw_heatmap
from opsearch.errors import RunFolderError
from opsearch.policy.policy import Policy
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Solution, Status
from opsearch.report.page import save_report
from opsearch.report.svg import inline
from opsearch.runs.config import RunConfig
from opsearch.runs.run_folder import RunFolder

if TYPE_CHECKING:
    from opsearch.timing.policy_latency import TimedPrefill


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """The policy that a search found, and what is known of it.

    Attributes:
        config: The settings, all defaults resolved.
        problem: The problem that was solved.
        solution: Its solution: status, bound, gap, evaluations, seconds, note.
        comparison: Methods as columns; costs, KL and accuracies as rows. None after a solve from
            stored measurements.
        folder: The run folder.
        prefill: Predicted and real time of the policy; None without a budget of time.
    """

    config: RunConfig
    problem: Problem
    solution: Solution
    comparison: pd.DataFrame | None
    folder: Path
    prefill: TimedPrefill | None = None

    @property
    def policy(self) -> Policy:
        """The policy, as saved in the run folder."""
        return self._saved_policy

    @cached_property
    def _saved_policy(self) -> Policy:
        return Policy.from_pretrained(self.folder)

    @property
    def value(self) -> float:
        """The objective of the policy, in `solution.unit`."""
        assert self.solution.value is not None  # a search raises where it finds no policy
        return self.solution.value

    @property
    def status(self) -> Status:
        """How the solve ended; `status.sentence` says what it means."""
        return self.solution.status

    @property
    def costs(self) -> dict[str, str]:
        """The policy's costs by name, as share of the stock model and mean per sample."""
        costs = self.solution.costs
        return {c.name: c.describe(costs[c.name]) for c in self.problem.constraints}

    def save(self, folder: str | Path) -> Path:
        """Write the whole run folder: policy, settings, measurements, solution, report.

        Args:
            folder: A new folder, or an empty one.

        Returns:
            The folder. `opsearch solve`, `front`, `show` and the others take it.

        Raises:
            RunFolderError: The folder holds files already.
        """
        target = Path(folder)
        if target.exists() and any(target.iterdir()):
            raise RunFolderError(f"{target} is not empty; give a new folder")
        ignored = shutil.ignore_patterns(".lock")
        shutil.copytree(self.folder, target, dirs_exist_ok=True, ignore=ignored)
        self.config.model_copy(update={"out": target}).save(RunFolder(target).config)
        save_report(target)
        return target

    def __repr__(self) -> str:
        costs = ", ".join(f"{name} {shown}" for name, shown in self.costs.items())
        return (
            f"SearchResult({self.policy.name}: {self.value:.4g} {self.solution.unit}, {costs}, "
            f"{self.status})"
        )

    def _repr_html_(self) -> str:
        """Return the heat map of the policy and its table, for notebooks."""
        facts = {
            "policy": self.policy.name,
            self.solution.objective: f"{self.value:.4g} {self.solution.unit}",
            **self.costs,
            "status": f"{self.status}: {self.status.sentence}",
        }
        rows = "".join(
            f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>"
            for name, text in facts.items()
        )
        picture = inline(draw_heatmap(self.policy), "policy", "Share of the visual tokens")
        table = "" if self.comparison is None else self.comparison.round(2).to_html(na_rep="")
        return f"<table>{rows}</table>{picture}{table}"
