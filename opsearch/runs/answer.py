"""The policy that a run folder holds, as a point in cost and measured divergence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from opsearch.costs.base import Cost
from opsearch.errors import PolicyError
from opsearch.measure.storage.records import StoredSample
from opsearch.measure.storage.store import Store
from opsearch.policy.policy import Policy
from opsearch.problem.budget import total_cost
from opsearch.runs.stored import looked_up


@dataclass(frozen=True)
class Answer:
    """The policy of a run folder.

    Attributes:
        policy: Its name.
        cost: Its cost over the calibration samples.
        kl: Its mean KL on them, in nats; None if it is not stored.
    """

    policy: str
    cost: int
    kl: float | None


def stored_answer(
    folder: Path, cost: Cost, store: Store, samples: Sequence[StoredSample]
) -> Answer | None:
    """Return the answer of a run; None if the folder holds no policy that can be read.

    Args:
        folder: The run folder.
        cost: The cost.
        store: The measurements.
        samples: The calibration samples.
    """
    try:
        policy = Policy.from_pretrained(folder)
    except PolicyError:  # none yet, or a damaged one
        return None
    tables, _ = looked_up(store, samples, [policy], ("kl",))
    mean = float(tables[0, 0].mean())
    spent = total_cost(cost, policy, [s.size for s in samples])
    return Answer(policy.name, spent, None if np.isnan(mean) else mean)
