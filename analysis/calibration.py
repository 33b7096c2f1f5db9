"""Ablation within one run: samples, interpolation points and divergence of the calibration.

A policy is selected on samples drawn without replacement and evaluated on the remaining ones.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from opsearch.analysis.bootstrap import interval
from opsearch.analysis.choice import Rows, additive, choose, draws, joint, ladder, within
from opsearch.analysis.measured import Array, Measured

SAMPLES, POINTS, DIVERGENCE = "calibration samples", "interpolation points", "divergence"
COUNTS = (5, 10, 20, 50, 100, 200)
MEASURED_POINTS = (3, 4, 5, 7, 9)
DIVERGENCES = ("kl", "reverse_kl", "js")
DRAWS = 200
EVALUATED = 1 / 4
"""Least share of the samples to evaluate on; a mean over fewer is too noisy."""


def within_run(run: Measured, budgets: Rows, seed: int) -> Iterator[pd.DataFrame]:
    """Yield a block of rows per level and objective, see `opsearch.analysis.ablation.table`."""
    samples, rows = len(run.items), ladder(run)
    sizes = within(run, rows, budgets)
    kl, top1 = run.tables["kl"][rows], run.tables["top1"][rows]
    for factor, level, count in _factor_levels(samples):
        drawn, rest = draws(samples, count, DRAWS, seed)
        for objective, values in _objectives(run, rows, drawn, factor, level):
            chosen = choose(values, sizes)
            chosen_kl = np.take_along_axis(kl @ rest, chosen, axis=0)
            low, high = interval(chosen_kl)
            agreed = np.take_along_axis(top1 @ rest, chosen, axis=0)
            yield pd.DataFrame(
                {
                    "factor": factor,
                    "level": level,
                    "objective": objective,
                    "budget": budgets,
                    "kl": chosen_kl.mean(axis=1),
                    "low": low,
                    "high": high,
                    "top1": agreed.mean(axis=1),
                    "draws": DRAWS,
                }
            )


def _factor_levels(samples: int) -> Iterator[tuple[str, str, int]]:
    """Yield factor, level, and the number of samples to select on."""
    for count in COUNTS:
        if samples - count >= EVALUATED * samples:
            yield SAMPLES, str(count), count
    for points in (*MEASURED_POINTS, "all"):
        yield POINTS, str(points), samples // 2
    for divergence in DIVERGENCES:
        yield DIVERGENCE, divergence, samples // 2


def _objectives(
    run: Measured, rows: Rows, drawn: Array, factor: str, level: str
) -> Iterator[tuple[str, Array]]:
    """Yield name and values of each objective that selects at a level.

    The joint objective does not interpolate.
    """
    divergence = level if factor == DIVERGENCE else "kl"
    points = int(level) if factor == POINTS and level != "all" else None
    yield "additive", additive(run, rows, drawn, divergence, points)
    if factor != POINTS:
        yield "joint", joint(run, rows, drawn, divergence)
