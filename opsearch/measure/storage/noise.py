"""The noise floor of a run, from the noise that its store holds."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_UP, Context

import numpy as np

from opsearch.measure.storage.store import Store
from opsearch.problem.objective import KL_QUANTUM

TOGETHER, ONE_BY_ONE = "noise floor, together", "noise floor, one by one"
"""Keys under which the noise is stored, of samples measured together and one by one."""


def noise_floor(store: Store, items: Sequence[str]) -> float:
    """Return the mean KL in nats below which policies tie on these samples.

    The larger of the two mean noises, rounded up to one digit. It is at least KL_QUANTUM, also
    where no noise was measured.
    """
    found = store.get([TOGETHER, ONE_BY_ONE])
    means = [np.mean([found.get((key, i), 0.0) for i in items]) for key in (TOGETHER, ONE_BY_ONE)]
    one_digit = Context(prec=1, rounding=ROUND_UP)
    return max(KL_QUANTUM, float(one_digit.create_decimal_from_float(float(max(means)))))
