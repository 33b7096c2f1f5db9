"""Output of `opsearch adapt`."""

from __future__ import annotations

from math import isnan
from typing import Any

import pandas as pd
from rich.console import Console

from opsearch.analysis.adaptive import LOST
from opsearch.commands.adapt import Adapted
from opsearch.commands.cli.tables import Column, print_table


def print_adapted(found: Adapted, console: Console) -> None:
    """Print the comparison, the kinds of questions, and where the set is."""
    console.print("At the same mean cost, by what chooses the policy of a question:")
    _print_frame("", found.comparison, console)
    if not found.helps:
        console.print(
            "No selector was better than one policy on questions that it did not see, so the set "
            "is the one policy.",
            soft_wrap=True,
        )
    elif len(found.kinds) > 1:
        console.print("Held-out questions by kind, and the share that gets each policy in %:")
        _print_frame("kind", found.kinds, console)
    console.print(
        "Cost: share of the original's. KL in nats. One per kind: a policy for each kind of "
        "question, which a request does not tell. Best of the set, best per sample: chosen by the "
        "sample's own divergences, which no selector knows: bounds.",
        soft_wrap=True,
    )
    if LOST in found.comparison:
        console.print(
            "Lost at most: answers that become worse than the original's, of new questions like "
            "the held-out ones, with 95% confidence.",
            soft_wrap=True,
        )
    console.print(f"policy set    {found.folder / 'policy_set.json'}", soft_wrap=True)


def _print_frame(title: str, frame: pd.DataFrame, console: Console) -> None:
    columns = [Column(title, [str(name) for name in frame.index], "left")]
    columns += [
        Column(str(name), [_cell(str(name), value) for value in frame[name]]) for name in frame
    ]
    print_table(columns, console)


def _cell(name: str, value: float) -> str:
    if isnan(value):
        return "-"
    if name in ("policies", "samples"):
        return f"{value:.0f}"
    return f"{value:.3f}" if name.startswith("KL") else f"{value:.1f}"


def adapted_json(found: Adapted) -> dict[str, Any]:
    """Return the folder of a set, and what the tables show."""
    return {
        "folder": found.folder,
        "helps": found.helps,
        "comparison": found.comparison.to_dict("index"),
        "kinds": found.kinds.to_dict("index"),
    }
