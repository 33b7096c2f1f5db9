"""Proxies against the true joint divergence: rank correlation, regret of the choice, and cost."""

from __future__ import annotations

import numpy as np
import pandas as pd

from opsearch.analysis.choice import additive, choose, common_budgets, joint, ladder, whole, within
from opsearch.analysis.measured import Measured
from opsearch.analysis.rank import point_name, rank_correlation

PROXIES = {"additive": "kl", "taylor": "taylor"}
"""Separable proxies, and the divergence of `Measured.alone` that holds their terms."""
GRADIENT_FORWARDS = 4
"""Cost of a gradient in forwards: one with gates, then one more and a backward for each layer."""


def table(measured: Measured) -> pd.DataFrame:
    """Tabulate every proxy that the run measured, a row per proxy and budget.

    Returns:
        `proxy`; `forwards`: what it takes per sample, in forwards of the decoder, without what
        policies share; `budget` in % of the stock cost; `policies` within it; `spearman`: rank
        correlation of proxy and joint KL over them; `policy`: the proxy's choice, `kl`: its joint
        KL in nats, `regret`: that minus the lowest KL within the budget. Empty if there is only
        one proxy.

    Raises:
        OpsearchError: No budget was measured completely.
    """
    proxies = {name: key for name, key in PROXIES.items() if key in measured.alone}
    if len(proxies) < 2:
        return pd.DataFrame()
    budgets, rows = common_budgets([measured]), ladder(measured)
    even, sizes = whole(len(measured.items)), within(measured, rows, budgets)
    true = joint(measured, rows, even)
    lowest = true[choose(true, sizes)[:, 0], 0]
    records = []
    for name, key in proxies.items():
        values = additive(measured, rows, even, divergence=key)
        chosen = choose(values, sizes)[:, 0]
        for k, (budget, size) in enumerate(zip(budgets, sizes, strict=True)):
            kl = true[chosen[k], 0]
            records.append(
                {
                    "proxy": name,
                    "forwards": _forwards(measured, name),
                    "budget": int(budget),
                    "policies": int(size),
                    "spearman": rank_correlation(values[:size], true[:size])[0],
                    "policy": point_name(measured, rows[chosen[k]]),
                    "kl": kl * measured.quantum,
                    "regret": (kl - lowest[k]) * measured.quantum,
                }
            )
    return pd.DataFrame(records)


def _forwards(measured: Measured, proxy: str) -> int:
    """Return the forwards per sample of a proxy; values that prune nothing take none."""
    if proxy == "taylor":
        return GRADIENT_FORWARDS
    return sum(len(parameter.values) - 1 for parameter in measured.space.parameters)


def describe(found: pd.DataFrame) -> str:
    """Describe each proxy in a sentence; empty for an empty table."""
    if found.empty:
        return ""
    sentences = []
    for name, rows in found.groupby("proxy", sort=False):
        last = rows.iloc[-1]
        regrets = ", ".join(f"{regret:.3f}" for regret in rows["regret"])
        at = ", ".join(str(budget) for budget in rows["budget"])
        sentences.append(
            f"Proxy {name}, {last['forwards']} forwards per sample: Spearman "
            f"{last['spearman']:.3f} within {last['budget']} %, its choices at {at} % are "
            f"{regrets} nats above the lowest KL (mean {np.mean(rows['regret']):.3f})."
        )
    return " ".join(sentences)
