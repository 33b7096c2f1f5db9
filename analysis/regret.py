"""Regret of choosing by the additive proxy instead of the joint objective, at each budget.

Two regrets are kept apart. On the measured samples, the choice of the joint objective is the true
minimum. On samples that had no part in the choice it is not, and may be worse than the proxy's.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from opsearch.analysis.bootstrap import interval, resamples
from opsearch.analysis.choice import Rows, additive, choose, draws, joint, whole
from opsearch.analysis.measured import Array, Measured

HALVES = 400


def regret(measured: Measured, rows: Rows, sizes: Rows, seed: int = 0) -> pd.DataFrame:
    """Tabulate the regret: a row per budget, whose policies are the first sizes[k] of `rows`.

    The sizes are positive and non-decreasing. The columns are described in
    `opsearch.analysis.rank.table`.
    """
    return pd.concat(
        [_measured(measured, rows, sizes, seed), _split(measured, rows, sizes, seed)], axis=1
    )


def _measured(measured: Measured, rows: Rows, sizes: Rows, seed: int) -> pd.DataFrame:
    """Tabulate the choices on all samples, with bootstrap intervals."""
    samples = len(measured.items)
    proxy, true = (c[:, 0] for c in _choices(measured, rows, sizes, whole(samples)))
    values = joint(measured, rows, whole(samples))[:, 0] * measured.quantum
    kl, top1 = measured.tables["kl"][rows], measured.tables["top1"][rows]
    redrawn = resamples(samples, seed)
    # The two choices are fixed; only the samples of the evaluation are resampled.
    low, high = interval((kl[proxy] - kl[true]) @ redrawn)
    top1_low, top1_high = interval((top1[true] - top1[proxy]) @ redrawn)
    # The choices are made anew on each resample.
    proxy_again, true_again = _choices(measured, rows, sizes, redrawn)
    return pd.DataFrame(
        {
            "proxy_policy": [point_name(measured, rows[i]) for i in proxy],
            "joint_policy": [point_name(measured, rows[i]) for i in true],
            "proxy_kl": values[proxy],
            "joint_kl": values[true],
            "regret": values[proxy] - values[true],
            "low": low,
            "high": high,
            "proxy_top1": top1[proxy].mean(axis=1),
            "joint_top1": top1[true].mean(axis=1),
            "regret_top1": (top1[true] - top1[proxy]).mean(axis=1),
            "top1_low": top1_low,
            "top1_high": top1_high,
            "same": (proxy_again == true_again).mean(axis=1),
        }
    )


def _split(measured: Measured, rows: Rows, sizes: Rows, seed: int) -> pd.DataFrame:
    """Tabulate choices made on a random half of the samples and evaluated on the other half."""
    samples = len(measured.items)
    half, rest = draws(samples, samples // 2, HALVES, seed)
    proxy, true = _choices(measured, rows, sizes, half)
    kl, top1 = measured.tables["kl"][rows] @ rest, measured.tables["top1"][rows] @ rest
    proxy_kl, joint_kl = (np.take_along_axis(kl, chosen, axis=0) for chosen in (proxy, true))
    proxy_top1, joint_top1 = (np.take_along_axis(top1, chosen, axis=0) for chosen in (proxy, true))
    low, high = interval(proxy_kl - joint_kl)
    return pd.DataFrame(
        {
            "split_proxy_kl": proxy_kl.mean(axis=1),
            "split_joint_kl": joint_kl.mean(axis=1),
            "split_regret": (proxy_kl - joint_kl).mean(axis=1),
            "split_low": low,
            "split_high": high,
            "split_regret_top1": (joint_top1 - proxy_top1).mean(axis=1),
        }
    )


def _choices(measured: Measured, rows: Rows, sizes: Rows, weights: Array) -> tuple[Rows, Rows]:
    """Return the choices of proxy and joint within each budget on each set of samples."""
    by_proxy = choose(additive(measured, rows, weights), sizes)
    return by_proxy, choose(joint(measured, rows, weights), sizes)


def point_name(measured: Measured, row: int) -> str:
    """Return the parameters of a point, e.g. "d_attn=10 d_mlp=7 n_v=7/10"."""
    pairs = zip(measured.space.parameters, measured.space.points[row], strict=True)
    return " ".join(f"{parameter.name}={parameter.values[i]}" for parameter, i in pairs)
