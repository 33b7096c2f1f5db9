"""Methods at equal cost: share of the stock cost against Rel. Avg., with intervals.

Rel. Avg. is the mean over families of a method's accuracy relative to the original model's. It is
nan where the original answers nothing correctly. Intervals are percentiles of a bootstrap over the
items of each family, with the same resamples for every method and the original, so that
differences between methods are paired.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]
RESAMPLES = 2000
_FEWEST = 5


@dataclass(frozen=True, eq=False)
class Entry:
    """A method's policy at a budget.

    Attributes:
        budget: Budget as the user wrote it.
        method: Name of the method.
        policy: Name of the policy.
        cost: Mean FLOPs per calibration sample.
        share: `cost` relative to the stock model's.
        kl_calibration: KL per calibration sample in nats, float64[S].
        kl: KL per evaluated item in nats, float64[T].
        scores: Score per evaluated item in [0, 1], float64[T].
        further: Other costs and times, as columns of the table.
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
    """Methods at several budgets, evaluated on the same items.

    Attributes:
        unit: Unit of the entries' cost.
        families: Family of each item.
        original: Scores of the original model per item, float64[T].
        entries: One per budget and method.
    """

    unit: str
    families: tuple[str, ...]
    original: Array
    entries: tuple[Entry, ...]


def table(comparison: Comparison, seed: int = 0) -> pd.DataFrame:
    """Tabulate cost, mean KL, accuracy and Rel. Avg. in % per budget and method."""
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
    """Return whether Rel. Avg. is defined: the original answers something correctly."""
    return bool(table["rel_avg"].notna().any())


def by_family(comparison: Comparison) -> pd.DataFrame:
    """Tabulate mean scores per budget, method and family, with those of the original."""
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
    """Tabulate by how much `method` exceeds `other` in Rel. Avg. and KL, with paired intervals.

    Rel. Avg. is in percentage points, KL in nats. There is one row per budget that has both
    methods.
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
    """Return the middle 95 % of the defined draws; nan where there is none."""
    if np.isnan(draws).all():
        return np.nan, np.nan
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return float(low), float(high)


def _accuracy(comparison: Comparison, scores: Array) -> float:
    """Return the mean over families of the mean score, as in the table of a run."""
    family = np.array(comparison.families)
    return float(np.mean([scores[family == name].mean() for name in set(comparison.families)]))


def _draws(comparison: Comparison, seed: int) -> NDArray[np.int64]:
    """Return the items unchanged, then resampled, int64[1 + RESAMPLES, T].

    Resampling is within each family, or over all items if a family has fewer than 5, which would
    hardly vary.
    """
    family = np.array(comparison.families)
    draws = np.tile(np.arange(len(family)), (1 + RESAMPLES, 1))
    random = np.random.default_rng(seed)
    if min(map(comparison.families.count, comparison.families)) < _FEWEST:
        draws[1:] = random.integers(0, len(family), (RESAMPLES, len(family)))
        return draws
    for name in dict.fromkeys(comparison.families):
        members = np.flatnonzero(family == name)
        draws[1:, members] = random.choice(members, (RESAMPLES, len(members)))
    return draws


def _relative(comparison: Comparison, scores: Array, draws: NDArray[np.int64]) -> Array:
    """Return Rel. Avg. in % of every draw, without families in which the original scores 0."""
    family = np.array(comparison.families)
    ratios = []
    for name in dict.fromkeys(comparison.families):
        drawn = draws[:, family == name]
        original = comparison.original[drawn].mean(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios.append(np.where(original > 0, scores[drawn].mean(axis=1) / original, np.nan))
    known = ~np.isnan(ratios)
    with np.errstate(invalid="ignore"):  # nan for a draw in which the original is never right
        return np.asarray(100 * np.nansum(ratios, axis=0) / known.sum(axis=0))
