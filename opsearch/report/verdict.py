"""What a comparison says of the chosen policy, in sentences and formatted cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from opsearch.formatting import format_amount

if TYPE_CHECKING:
    import pandas as pd

CHOSEN, ORIGINAL = "opsearch", "original"
_COSTS = ("FLOPs", "%", "KV", "prefill")
_DIVERGENCES = ("KL calibration", "KL held-out")
ACCURACY, RELATIVE = "accuracy, %", "Rel. Avg., %"
_JUDGED = (*_DIVERGENCES, RELATIVE)
NOTHING_RIGHT = (
    "the original itself answers no held-out question as the data does, so accuracies say nothing"
)


def verdict(frame: pd.DataFrame) -> list[str]:
    """The true KL of the chosen policy, and in what a baseline of the same budget is better."""
    known = frame.loc[list(_DIVERGENCES), CHOSEN].dropna()
    parts = ", ".join(
        f"{value:.3f} on {str(row).removeprefix('KL ')}" for row, value in known.items()
    )
    lines = [f"true KL of the policy as it runs, in nats: {parts}"]
    if rivals := better_baselines(frame):
        lines.append(f"{rivals}: compare other spaces and objectives")
    if nothing_right(frame):
        lines.append(f"{NOTHING_RIGHT}; write answers in the data as the model words them")
    return lines


def nothing_right(frame: pd.DataFrame) -> bool:
    """Whether answers were scored and the original got none right, so that nothing can be lost."""
    return ACCURACY in frame.index and _value(frame, ACCURACY, ORIGINAL) == 0


def better_baselines(frame: pd.DataFrame) -> str:
    """In what which baseline is best and better than the chosen policy; empty when in nothing."""
    found: dict[str, list[str]] = {}
    for row in _JUDGED:
        best = best_methods(frame, row)
        if best and CHOSEN not in best:
            theirs, ours = (cell(row, _value(frame, row, name)) for name in (best[0], CHOSEN))
            if theirs == ours:  # a difference that nobody would see
                continue
            unit = " %" if row.endswith("%") else ""
            name = row.removesuffix(", %")
            found.setdefault(best[0], []).append(f"{name} ({theirs}{unit} against {ours}{unit})")
    return "; ".join(f"{name} is better in {' and '.join(rows)}" for name, rows in found.items())


def best_methods(frame: pd.DataFrame, row: str) -> list[str]:
    """The pruned methods that share the best value of a row.

    None of them where nothing was measured, or where neither low nor high is good.
    """
    if row not in frame.index or row.startswith(_COSTS):
        return []
    values = {str(name): _value(frame, row, str(name)) for name in frame if name != ORIGINAL}
    known = [value for value in values.values() if not np.isnan(value)]
    if not known:
        return []
    best = min(known) if row in _DIVERGENCES else max(known)
    return [name for name, value in values.items() if value == best]


def cell(row: str, value: float) -> str:
    """A number of the comparison as people read it; a dash where nothing was measured."""
    if np.isnan(value):
        return "-"
    if row.startswith(("FLOPs", "KV bytes")):
        return format_amount(value, "").rstrip()
    return f"{value:.3f}" if row.startswith("KL") else f"{value:.1f}"


def _value(frame: pd.DataFrame, row: str, method: str) -> float:
    return float(frame[method].to_dict()[row])
