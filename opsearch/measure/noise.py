"""Noise floor of half precision: the divergence that rounding alone causes on the original.

The original runs through the sweep like a policy, once with as many samples per batch as memory
allows and once sample by sample. Both results are stored under keys of their own, so that solving
again without the model finds the same floor.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_UP, Context

import numpy as np

from opsearch.measure.keys import KeyedPolicy, Missing
from opsearch.measure.samples import Sample
from opsearch.measure.store import Store
from opsearch.policy.builders import identity
from opsearch.problem.objective import KL_QUANTUM

TOGETHER, ONE_BY_ONE = "noise floor, together", "noise floor, one by one"


def missing_noise(key: str, samples: Sequence[Sample], layers: int, store: Store) -> list[Missing]:
    """Return the samples whose noise under `key` is not stored, by number of visual tokens."""
    found = store.get([key])
    original = [KeyedPolicy(key, identity(layers))]
    missing: dict[int, Missing] = {}
    for sample in samples:
        if sample.n_visual and (key, sample.digest) not in found:
            missing.setdefault(sample.n_visual, Missing(original, [])).samples.append(sample)
    return list(missing.values())


def noise_floor(store: Store, items: Sequence[str]) -> float:
    """Return the mean KL in nats below which policies tie on these items.

    The larger of the two mean noises, rounded up to one digit. It is at least KL_QUANTUM, also
    where no noise was measured.
    """
    found = store.get([TOGETHER, ONE_BY_ONE])
    means = [np.mean([found.get((key, i), 0.0) for i in items]) for key in (TOGETHER, ONE_BY_ONE)]
    one_digit = Context(prec=1, rounding=ROUND_UP)
    return max(KL_QUANTUM, float(one_digit.create_decimal_from_float(float(max(means)))))
