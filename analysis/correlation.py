"""Rank correlation and top-k overlap of the additive proxy with the joint divergence."""

from __future__ import annotations

import numpy as np
import pandas as pd

from opsearch.analysis.bootstrap import interval, resamples
from opsearch.analysis.choice import Rows, additive, joint, whole
from opsearch.analysis.measured import Array, Measured

_RANK_RESAMPLES = 200
TOP = 10


def grades(measured: Measured, rows: Rows, sizes: Rows, seed: int) -> pd.DataFrame:
    """Tabulate the rank statistics over the policies of each budget, the first sizes[k] of `rows`.

    The columns are described in `opsearch.analysis.rank.table`.
    """
    from scipy.stats import kendalltau

    samples = len(measured.items)
    # The last column holds all samples, the others are bootstrap resamples.
    weights = np.hstack([resamples(samples, seed, _RANK_RESAMPLES), whole(samples)])
    proxies, joints = additive(measured, rows, weights), joint(measured, rows, weights)
    records = []
    for size in sizes:
        proxy, true = proxies[:size, -1], joints[:size, -1]
        spearman = _spearman(proxies[:size], joints[:size])
        known = spearman[:-1][~np.isnan(spearman[:-1])]
        low, high = interval(known) if len(known) else (np.nan, np.nan)
        varied = not np.isnan(spearman[-1])
        records.append(
            {
                "spearman": spearman[-1],
                "spearman_low": low,
                "spearman_high": high,
                "kendall": float(kendalltau(proxy, true).statistic) if varied else np.nan,
                "top10": overlap(proxy, true, TOP),
                "top1pct": overlap(proxy, true, -(-size // 100)),
            }
        )
    return pd.DataFrame(records)


def _spearman(first: Array, second: Array) -> Array:
    """Return Spearman's correlation of each pair of columns [N, W]; nan for a constant column."""
    from scipy.stats import rankdata

    a, b = (rankdata(x, axis=0) - (len(x) + 1) / 2 for x in (first, second))
    scale = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    undefined = np.full(len(scale), np.nan)
    return np.asarray(np.divide((a * b).sum(axis=0), scale, out=undefined, where=scale > 0))


def overlap(proxy: Array, joint: Array, k: int) -> float:
    """Return the share of the k lowest that both have in common, nan unless k is below the length.

    Ties are broken by position.
    """
    if k >= len(proxy):
        return np.nan
    best_proxy, best_joint = (np.argsort(v, kind="stable")[:k] for v in (proxy, joint))
    return len(np.intersect1d(best_proxy, best_joint)) / k
