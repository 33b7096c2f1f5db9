"""What choosing by the additive proxy costs at each budget, against choosing by the joint.

Two questions are kept apart. On the measured samples: how far is the proxy's choice above the
lowest value there is? And on samples that had no part in the choice, where the joint's choice is no
minimum either: is it still better?
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from opsearch.analysis.bootstrap import interval, resamples
from opsearch.analysis.choice import Rows, additive, choose, draws, joint, whole
from opsearch.analysis.measured import Array, Measured

HALVES = 400


def regret(measured: Measured, rows: Rows, sizes: Rows, seed: int = 0) -> pd.DataFrame:
    """A row per budget, which the first sizes[k] of `rows` keep within; they rise and are not 0.

    The columns are those that `opsearch.analysis.rank.table` explains.
    """
    return pd.concat(
        [_measured(measured, rows, sizes, seed), _split(measured, rows, sizes, seed)], axis=1
    )


def _measured(measured: Measured, rows: Rows, sizes: Rows, seed: int) -> pd.DataFrame:
    """The choices on all samples, and what drawing the samples anew does to them."""
    samples = len(measured.items)
    proxy, true = (c[:, 0] for c in _choices(measured, rows, sizes, whole(samples)))
    values = joint(measured, rows, whole(samples))[:, 0] * measured.quantum
    kl, top1 = measured.tables["kl"][rows], measured.tables["top1"][rows]
    redrawn = resamples(samples, seed)
    # The two choices stay what they are; only the samples that judge them are drawn anew.
    low, high = interval((kl[proxy] - kl[true]) @ redrawn)
    top1_low, top1_high = interval((top1[true] - top1[proxy]) @ redrawn)
    # Here the drawn samples also make the choices.
    proxy_again, true_again = _choices(measured, rows, sizes, redrawn)
    return pd.DataFrame(
        {
            "proxy_policy": [named(measured, rows[i]) for i in proxy],
            "joint_policy": [named(measured, rows[i]) for i in true],
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
    """Chosen on a random half of the samples, judged on the other half, over many halves."""
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
    """What the proxy and what the joint choose within each budget on each set of samples."""
    by_proxy = choose(additive(measured, rows, weights), sizes)
    return by_proxy, choose(joint(measured, rows, weights), sizes)


def named(measured: Measured, row: int) -> str:
    """The parameters of a point in words, e.g. "d_attn=10 d_mlp=7 n_v=7/10"."""
    pairs = zip(measured.space.parameters, measured.space.points[row], strict=True)
    return " ".join(f"{parameter.name}={parameter.values[i]}" for parameter, i in pairs)
