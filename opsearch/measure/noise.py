"""The noise floor of half precision: how far rounding alone moves the original's answers.

The original goes through the stack as any policy does, once with as many samples at a time as
memory allows and once sample by sample. Both are stored under names of their own, so that solving
again, without the model, finds the same floor.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_UP, Context

import numpy as np

from opsearch.builders import identity
from opsearch.measure.keys import Keyed, Todo
from opsearch.measure.samples import Sample
from opsearch.measure.store import Store
from opsearch.problem import KL_QUANTUM

TOGETHER, ONE_BY_ONE = "noise floor, together", "noise floor, one by one"


def noise_todo(key: str, samples: Sequence[Sample], layers: int, store: Store) -> list[Todo]:
    """The samples whose noise the store lacks under `key`, by number of visual tokens."""
    found = store.get([key])
    original = [Keyed(key, identity(layers))]
    work: dict[int, Todo] = {}
    for sample in samples:
        if sample.n_visual and (key, sample.digest) not in found:
            work.setdefault(sample.n_visual, Todo(original, [])).samples.append(sample)
    return list(work.values())


def noise_floor(store: Store, items: Sequence[str]) -> float:
    """Nats below which a mean KL over these items is a tie: of the two, the larger mean noise.

    Rounded up to one digit; KL_QUANTUM where that is more or where no noise was measured.
    """
    found = store.get([TOGETHER, ONE_BY_ONE])
    means = [np.mean([found.get((key, i), 0.0) for i in items]) for key in (TOGETHER, ONE_BY_ONE)]
    one_digit = Context(prec=1, rounding=ROUND_UP)
    return max(KL_QUANTUM, float(one_digit.create_decimal_from_float(float(max(means)))))
