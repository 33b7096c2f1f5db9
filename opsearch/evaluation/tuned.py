"""Choice among candidates by their divergence on the calibration samples."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from math import inf
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from opsearch.measure.counted import distinct_keys
from opsearch.measure.engine import Engine, SampleMeasure
from opsearch.models.encoding import Sample
from opsearch.objectives.racing import Divergences, Rows, lower_bounds, race
from opsearch.policy.baseline import EVALUATIONS, with_evaluations
from opsearch.policy.policy import Policy
from opsearch.problem.objective import KL_QUANTUM, in_quanta, rounded_mean
from opsearch.progress import Tick

Key = TypeVar("Key", bound=Hashable)


def choose_settings(
    candidates: Mapping[Key, Sequence[Policy]],
    engine: Engine,
    samples: Sequence[Sample],
    cost: Callable[[Policy], int],
    progress: Tick | None = None,
) -> dict[Key, Policy]:
    """Return the candidate of each method with the lowest mean KL on the calibration samples.

    Of those that tie, the cheapest is chosen. The candidates of each method race against each
    other, all methods in the same rounds, so that they share what they have in common; the chosen
    ones are measured on all samples. The provenance of a chosen policy has the number of policies
    that were tried to choose it, including those that its candidates already name.

    Args:
        candidates: Policies of each method.
        engine: Measures the policies.
        samples: The calibration samples.
        cost: Return the cost of a policy over all samples.
        progress: Called with the planned FLOPs done and in total.
    """
    if not candidates:
        return {}
    quantum = max(KL_QUANTUM, engine.noise_floor(samples, progress))
    means = _raced(list(candidates.values()), SampleMeasure(engine, samples, progress), quantum)
    chosen = {}
    for (key, found), values in zip(candidates.items(), means, strict=True):
        ties = in_quanta(values, quantum).tolist()
        best = min(range(len(found)), key=lambda i: (ties[i], cost(found[i]), i))
        tried = len(distinct_keys(found, samples)) if len(found) > 1 else 0
        before = found[0].provenance.get(EVALUATIONS, 0)
        chosen[key] = with_evaluations(found[best], before + tried)
    return chosen


def _raced(
    methods: Sequence[Sequence[Policy]], measure: SampleMeasure, quantum: float
) -> list[NDArray[np.float64]]:
    """Return the mean KL of each method's policies in nats; infinite if another one is better."""
    policies = [policy for found in methods for policy in found]
    sizes = [len(found) for found in methods]
    groups = np.repeat(np.arange(len(methods)), sizes)

    def on(rows: Rows, columns: Rows) -> Divergences:
        return measure.on([policies[row] for row in rows], columns.tolist())

    known = measure.engine.stored(policies, measure.samples)
    first = _promising(known, groups)
    known[first] = measure([policies[row] for row in first])
    hardest = np.argsort(-known[first].mean(axis=0), kind="stable").tolist()
    table = race(on, known, hardest, groups=groups.tolist(), quantum=quantum)
    means = np.where(np.isnan(table).any(axis=1), inf, rounded_mean(table))
    return np.split(means, np.cumsum(sizes)[:-1])


def _promising(known: Divergences, groups: Rows) -> Rows:
    """Return a policy of each group: the one known on most samples, then that of lowest KL there.

    An earlier race dropped it last. If nothing is known, it is the first one.
    """
    order = np.lexsort((lower_bounds(known), np.isnan(known).sum(axis=1)))
    return order[np.unique(groups[order], return_index=True)[1]]
