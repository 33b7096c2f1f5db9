"""Ablation between runs: settings in which they differ (ranker, space, positions, ...)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pandas as pd

from opsearch.analysis.bootstrap import interval, resamples
from opsearch.analysis.choice import Rows, additive, choose, joint, ladder, whole, within
from opsearch.analysis.measured import Array, Measured
from opsearch.errors import OpsearchError

SETTINGS = (
    "model", "dtype", "attention", "data", "samples", "seed", "space", "kv", "stages", "n_v",
    "ranker", "positions",
)  # fmt: skip
"""Settings of a run on which its measurements depend."""


def between_runs(runs: Sequence[Measured], budgets: Rows, seed: int) -> Iterator[pd.DataFrame]:
    """Yield blocks of rows that compare each further run with the first.

    The columns are described in `opsearch.analysis.ablation.table`.

    Raises:
        OpsearchError: A run has the same settings as the first.
    """
    base, *others = runs
    seen: set[str] = set()
    for run in others:
        differ = [s for s in SETTINGS if run.settings.get(s) != base.settings.get(s)]
        if not differ:
            raise OpsearchError(
                f"{run.label} has the same settings as {base.label}; an ablation needs runs that "
                f"differ in one of {', '.join(SETTINGS)}"
            )
        factor = " + ".join(differ)
        for member in (run,) if factor in seen else (base, run):
            level = " + ".join(str(member.settings.get(s)) for s in differ)
            for objective in ("additive", "joint"):
                block = _evaluated_choices(member, base, objective, budgets, seed)
                yield block.assign(factor=factor, level=level, objective=objective)
        seen.add(factor)


def _evaluated_choices(
    run: Measured, base: Measured, objective: str, budgets: Rows, seed: int
) -> pd.DataFrame:
    """Tabulate the choices of a run on its own samples, and the difference to those of `base`."""
    kl, top1 = _chosen(run, objective, budgets)
    redrawn = resamples(len(run.items), seed)
    low, high = interval(kl @ redrawn)
    columns = {"budget": budgets, "kl": kl.mean(axis=1), "low": low, "high": high}
    block = pd.DataFrame(columns | {"top1": top1.mean(axis=1), "draws": 1})
    if run.items != base.items:
        return block
    paired = kl - _chosen(base, objective, budgets)[0]
    low, high = interval(paired @ redrawn)
    return block.assign(difference=paired.mean(axis=1), difference_low=low, difference_high=high)


def _chosen(run: Measured, objective: str, budgets: Rows) -> tuple[Array, Array]:
    """Return KL and top1 of the policy chosen at each budget, on every sample, [K, S] each."""
    rows = ladder(run)
    values = (joint if objective == "joint" else additive)(run, rows, whole(len(run.items)))
    at = rows[choose(values, within(run, rows, budgets))[:, 0]]
    return run.tables["kl"][at], run.tables["top1"][at]
