"""Output of `opsearch eval --tasks`."""

from __future__ import annotations

import numpy as np
from rich.console import Console

from opsearch.commands.cli.tables import Column, print_table
from opsearch.evaluation.lmms.scores import Evaluation, TaskScores, ends
from opsearch.formatting import counted


def print_evaluation(evaluation: Evaluation, console: Console) -> None:
    """Print the mean scores of every task, and the official figures of whole splits."""
    headers = ("samples", "original", "policy", "ratio (95 %)", "official", "policy", "ratio")
    rows = []
    for seed, task in enumerate(evaluation.tasks):
        low, high = ends(task.resampled(seed))
        cells = (
            str(len(task.original)),
            f"{100 * task.original.mean():.1f}%",
            f"{100 * task.policy.mean():.1f}%",
            _ratio_cell(task.ratio, low, high),
            *_official_cells(task),
        )
        rows.append(cells)
    columns = [Column(*pair) for pair in zip(headers, zip(*rows, strict=True), strict=True)]
    print_table([Column("task", [t.name for t in evaluation.tasks], "left"), *columns], console)
    _print_average(evaluation, console)


def _print_average(evaluation: Evaluation, console: Console) -> None:
    count = sum(len(task.original) for task in evaluation.tasks)
    changed = sum(task.changed for task in evaluation.tasks)
    average = _ratio_cell(evaluation.relative, *evaluation.interval())
    console.print(
        f"Rel. Avg. {average} of mean scores ({counted(len(evaluation.tasks), 'task')}, "
        f"{counted(count, 'document')}); "
        f"{counted(changed, 'answer')} changed",
        soft_wrap=True,
    )
    if not np.isnan(evaluation.official_relative):
        console.print(f"Rel. Avg. {100 * evaluation.official_relative:.1f}% of official figures")
    elif evaluation.limit is not None:
        console.print(
            f"Only the first {evaluation.limit} documents of each task were answered; official "
            "figures require whole splits, without --limit.",
            soft_wrap=True,
        )
    for task in evaluation.tasks:
        if task.dropped:
            console.print(
                f"{task.name}: excluded {counted(task.dropped, 'document')} on which the policy "
                "was searched, or which share an image with those.",
                soft_wrap=True,
            )


def _official_cells(task: TaskScores) -> tuple[str, str, str]:
    if task.official is None:
        return "-", "-", "-"
    original, policy = task.official
    return f"{original:.4g}", f"{policy:.4g}", _percent_cell(task.official_ratio)


def _ratio_cell(value: float, low: float, high: float) -> str:
    return "-" if np.isnan(value) else f"{_percent_cell(value)} ({100 * low:.0f}-{100 * high:.0f})"


def _percent_cell(value: float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:.1f}%"
