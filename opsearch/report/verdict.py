"""Assessment of the chosen policy from a comparison, in sentences and formatted cells."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from opsearch import registry
from opsearch.errors import OpsearchError
from opsearch.formatting import format_amount
from opsearch.problem.solution import OF_PROXY

if TYPE_CHECKING:
    import pandas as pd

CHOSEN, ORIGINAL = "opsearch", "original"
_DIVERGENCES = ("KL calibration", "KL held-out")
ACCURACY, RELATIVE = "accuracy, %", "Rel. Avg., %"
EVALUATIONS = "evaluations"
_JUDGED = (*_DIVERGENCES, RELATIVE)
_APART = 2  # a proxy that is off by a larger factor is no guide
_FAMILY = "  "  # before the name of a family
NOTHING_RIGHT = "the original answers no held-out question correctly, so accuracies are meaningless"


def verdict(frame: pd.DataFrame) -> list[str]:
    """Return sentences with the KL of the chosen policy and the metrics of better baselines."""
    known = frame.loc[list(_DIVERGENCES), CHOSEN].dropna()
    parts = ", ".join(
        f"{value:.3f} on {str(row).removeprefix('KL ')} samples" for row, value in known.items()
    )
    lines = [f"measured KL of the policy, in nats: {parts}"]
    if rivals := better_baselines(frame):
        lines.append(rivals)
    if nothing_right(frame):
        lines.append(f"{NOTHING_RIGHT}; word the answers in the data as the model does")
    return lines


def proxy_warning(ended: str, value: float, unit: str, frame: pd.DataFrame) -> str:
    """Say that a proxy is no guide to the divergence of its policy; empty if it is one.

    Args:
        ended: How the solve ended, as `opsearch.problem.solution.statement` says.
        value: Value of the objective.
        unit: Its unit; only nats compare with a divergence.
        frame: The comparison.
    """
    measured = _value(frame, _DIVERGENCES[0], CHOSEN)
    low, high = sorted((measured, value))
    if (ended, unit) != (OF_PROXY, "nats") or np.isnan(measured) or high <= _APART * low:
        return ""
    return (
        f"the proxy counts {value:.3f} nats where {measured:.3f} were measured, so its optimum "
        "says little: measure its best policies with --verify 8"
    )


def nothing_right(frame: pd.DataFrame) -> bool:
    """Return whether answers were scored and none of the original's is correct."""
    return ACCURACY in frame.index and _value(frame, ACCURACY, ORIGINAL) == 0


def better_baselines(frame: pd.DataFrame) -> str:
    """Describe the metrics in which a baseline beats the chosen policy; empty if there are none."""
    found: dict[str, list[str]] = {}
    for row in _JUDGED:
        best = best_methods(frame, row)
        if best and CHOSEN not in best:
            theirs, ours = (cell(row, _value(frame, row, name)) for name in (best[0], CHOSEN))
            if theirs == ours:  # equal as printed
                continue
            unit = " %" if row.endswith("%") else ""
            name = row.removesuffix(", %")
            found.setdefault(best[0], []).append(f"{name} ({theirs}{unit} instead of {ours}{unit})")
    return "; ".join(f"{name} is better in {' and '.join(rows)}" for name, rows in found.items())


def best_methods(frame: pd.DataFrame, row: str) -> list[str]:
    """Return the pruned methods with the best value of a row.

    The list is empty if the row was not measured, or if it is a cost, which is no contest within a
    budget.
    """
    if row not in frame.index or not _is_quality(row):
        return []
    values = {str(name): _value(frame, row, str(name)) for name in frame if name != ORIGINAL}
    known = [value for value in values.values() if not np.isnan(value)]
    if not known:
        return []
    best = min(known) if row in _DIVERGENCES else max(known)
    return [name for name, value in values.items() if value == best]


def cell(row: str, value: float) -> str:
    """Format a number of the comparison; a dash if it was not measured."""
    if np.isnan(value):
        return "-"
    if row in _DIVERGENCES:
        return f"{value:.3f}"
    if row == EVALUATIONS:
        return f"{value:,.0f}"
    if not _is_quality(row) and row in _plain_amounts():
        return format_amount(value, "").rstrip()
    return f"{value:.1f}"


def _is_quality(row: str) -> bool:
    return row in (*_DIVERGENCES, RELATIVE, ACCURACY) or row.startswith(_FAMILY)


def _plain_amounts() -> set[str]:
    """Return the rows of mean costs that are printed with an SI prefix."""
    found = set()
    for name in registry.names("costs"):
        try:
            label = registry.lookup("costs", name).label
        except OpsearchError:  # another package's, which cannot be loaded; the table does without
            continue
        if label.scale == 1:
            found.add(label.amount)
    return found


def _value(frame: pd.DataFrame, row: str, method: str) -> float:
    return float(frame[method].to_dict()[row])
