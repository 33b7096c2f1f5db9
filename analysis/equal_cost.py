"""Methods at equal cost: the share of its work that is left against Rel. Avg., with intervals.

Rel. Avg. is the mean over families of a method's accuracy relative to the original model's. Where
the original answers nothing right it is not defined, and nan.
Intervals are percentiles of a bootstrap that draws the items of each family anew, the same items
for every method and the original, so that differences between methods are paired.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]
RESAMPLES = 2000
_FEW = 5


@dataclass(frozen=True, eq=False)
class Entry:
    """A method's policy at a budget.

    cost: mean FLOPs per calibration sample; share: of the stock model's. kl_calibration: float64[S]
    per calibration sample; kl, scores: float64[T] per judged item, KL in nats and score in [0, 1].
    further: other costs and times, as columns of the table.
    """

    budget: str
    method: str
    policy: str
    cost: float
    share: float
    kl_calibration: Array
    kl: Array
    scores: Array
    further: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Methods at several budgets, judged on the same items; `original` are the original's scores.

    unit: that of the entries' cost.
    """

    unit: str
    families: tuple[str, ...]
    original: Array
    entries: tuple[Entry, ...]


def table(comparison: Comparison, seed: int = 0) -> pd.DataFrame:
    """A tidy row per budget and method: cost, mean KL, accuracy, Rel. Avg. in %, its interval."""
    draws = _draws(comparison, seed)
    rows = []
    for entry in comparison.entries:
        rel = _relative(comparison, entry.scores, draws)
        low, high = _interval(rel[1:])
        rows.append(
            {
                "budget": entry.budget,
                "method": entry.method,
                "policy": entry.policy,
                "cost": entry.cost,
                "share": entry.share,
                **entry.further,
                "kl_calibration": float(entry.kl_calibration.mean()),
                "kl": float(entry.kl.mean()),
                "accuracy": _accuracy(comparison, entry.scores),
                "rel_avg": float(rel[0]),
                "low": low,
                "high": high,
                "items": len(entry.scores),
            }
        )
    return pd.DataFrame(rows)


def is_defined(table: pd.DataFrame) -> bool:
    """Whether there is a Rel. Avg.: the original answers something right."""
    return bool(table["rel_avg"].notna().any())


def by_family(comparison: Comparison) -> pd.DataFrame:
    """A tidy row per budget, method and family: mean score, and the original's."""
    family = np.array(comparison.families)
    rows = [
        {
            "budget": entry.budget,
            "method": entry.method,
            "family": name,
            "score": float(entry.scores[family == name].mean()),
            "original": float(comparison.original[family == name].mean()),
        }
        for entry in comparison.entries
        for name in dict.fromkeys(comparison.families)
    ]
    return pd.DataFrame(rows)


def differences(comparison: Comparison, method: str, other: str, seed: int = 0) -> pd.DataFrame:
    """How much higher `method` is than `other` at each budget: Rel. Avg. and KL, with intervals.

    One row per budget at which both stand; Rel. Avg. in percentage points, KL in nats.
    """
    draws = _draws(comparison, seed)
    found = {(entry.budget, entry.method): entry for entry in comparison.entries}
    rows = []
    for budget in dict.fromkeys(entry.budget for entry in comparison.entries):
        pair = found.get((budget, method)), found.get((budget, other))
        if pair[0] is None or pair[1] is None:
            continue
        rel = [_relative(comparison, entry.scores, draws) for entry in pair if entry]
        gap = pair[0].kl - pair[1].kl
        kl = np.array([gap.mean(), *(gap[rows].mean() for rows in draws[1:])])
        row: dict[str, float | str] = {"budget": budget, "method": method, "other": other}
        for name, values in (("rel_avg", rel[0] - rel[1]), ("kl", kl)):
            low, high = _interval(values[1:])
            row |= {name: float(values[0]), f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def _interval(draws: Array) -> tuple[float, float]:
    """The middle 95 %, of draws that say something; nan where none does."""
    if np.isnan(draws).all():
        return np.nan, np.nan
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return float(low), float(high)


def _accuracy(comparison: Comparison, scores: Array) -> float:
    """Mean over families of the mean score, as in the table of a run."""
    family = np.array(comparison.families)
    return float(np.mean([scores[family == name].mean() for name in set(comparison.families)]))


def _draws(comparison: Comparison, seed: int) -> NDArray[np.int64]:
    """Items as they are, then resampled, int64[1 + RESAMPLES, T].

    Within each family, but all together where one has less than 5: its few would hardly vary.
    """
    family = np.array(comparison.families)
    draws = np.tile(np.arange(len(family)), (1 + RESAMPLES, 1))
    random = np.random.default_rng(seed)
    if min(map(comparison.families.count, comparison.families)) < _FEW:
        draws[1:] = random.integers(0, len(family), (RESAMPLES, len(family)))
        return draws
    for name in dict.fromkeys(comparison.families):
        members = np.flatnonzero(family == name)
        draws[1:, members] = random.choice(members, (RESAMPLES, len(members)))
    return draws


def _relative(comparison: Comparison, scores: Array, draws: NDArray[np.int64]) -> Array:
    """Rel. Avg. in % for every draw; a family in which the original scores 0 is left out."""
    family = np.array(comparison.families)
    ratios = []
    for name in dict.fromkeys(comparison.families):
        drawn = draws[:, family == name]
        original = comparison.original[drawn].mean(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios.append(np.where(original > 0, scores[drawn].mean(axis=1) / original, np.nan))
    known = ~np.isnan(ratios)
    with np.errstate(invalid="ignore"):  # a draw in which the original is never right says nothing
        return np.asarray(100 * np.nansum(ratios, axis=0) / known.sum(axis=0))
