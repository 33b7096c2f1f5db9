"""The table a run ends with: the original, the chosen policy and simple baselines at equal cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from opsearch import builders
from opsearch.answers import Answers, relative_average
from opsearch.policy import Policy, RankerSpec

Fits = Callable[[Policy], bool]
_STEPS = 1000


@dataclass(frozen=True)
class Row:
    """One policy of the table with what was measured of it.

    kl, heldout_kl: float64[S] per sample in nats; answers: on the held-out samples, None where the
    data has no answers; share: cost as share of the stock model.
    """

    label: str
    policy: Policy
    share: float
    cost: float
    kl: NDArray[np.float64]
    heldout_kl: NDArray[np.float64]
    answers: Answers | None


def baselines(layers: int, ranker: RankerSpec, fits: Fits) -> dict[str, Policy]:
    """Simple methods, each with its own knob turned up until the budget is used.

    A method that cannot meet the budget at all is left out.
    """

    def reduction(spec: RankerSpec) -> Policy | None:
        return _largest(lambda share: builders.tokens(layers, share, spec), fits)

    withdrawals = (builders.vtw(layers, k) for k in reversed(range(layers + 1)))
    found = {
        f"tokens {ranker}": reduction(ranker),
        "tokens uniform": reduction(RankerSpec("uniform")),
        "tokens random": reduction(RankerSpec("random")),
        "VTW": next((policy for policy in withdrawals if fits(policy)), None),
        "FastV like": fastv_like(layers, ranker, fits),
    }
    return {label: policy for label, policy in found.items() if policy is not None}


def fastv_like(layers: int, ranker: RankerSpec, fits: Fits) -> Policy | None:
    """All tokens in the first K layers, a share after; K = 2 as published, or less where it must.

    The order is the run's ranking from before the decoder, not FastV's own attention at layer K -
    1.
    """
    for k in (2, 1):

        def build(share: Fraction, k: int = k) -> Policy:
            return builders.stages(layers, {0: 1, k: share}, ranker)

        policy = _largest(build, fits) if k < layers else None
        if policy is not None:
            return policy
    return None


def _largest(build: Callable[[Fraction], Policy], fits: Fits) -> Policy | None:
    """The policy of the largest share i/1000 that fits; cost rises with the share."""
    low, high = 0, _STEPS
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(build(Fraction(middle, _STEPS))) else (low, middle - 1)
    return build(Fraction(low, _STEPS)) if low else None


def table(rows: Sequence[Row]) -> pd.DataFrame:
    """Methods as columns; FLOPs per sample, KL in nats, Rel. Avg. and accuracies as rows."""
    original = rows[0].answers
    columns = {}
    for row in rows:
        column: dict[str, float] = {
            "FLOPs, mean": row.cost,
            "% of stock": 100 * row.share,
            "KL calibration": float(row.kl.mean()),
            "KL held-out": float(row.heldout_kl.mean()) if row.heldout_kl.size else np.nan,
        }
        if row.answers and original:
            families = row.answers.by_family()
            column["Rel. Avg., %"] = 100 * relative_average(families, original.by_family())
            column["accuracy, %"] = 100 * float(np.mean(list(families.values())))
            column |= {name: 100 * score for name, score in families.items()}
        columns[row.label] = column
    return pd.DataFrame(columns)
