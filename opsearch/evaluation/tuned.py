"""Choice among candidates by their divergence on the calibration samples."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from opsearch.measure.counted import CountedMeasure
from opsearch.measure.engine import Engine, SampleMeasure
from opsearch.models.encoding import Sample
from opsearch.policy.baseline import EVALUATIONS, with_evaluations
from opsearch.policy.policy import Policy
from opsearch.problem.objective import KL_QUANTUM
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

    Of those that tie, the cheapest is chosen. All candidates are measured together, so that they
    share what they have in common. The provenance of a chosen policy has the number of policies
    that were measured to choose it, including those that its candidates already name.

    Args:
        candidates: Policies of each method.
        engine: Measures the policies.
        samples: The calibration samples.
        cost: Return the cost of a policy over all samples.
        progress: Called with the planned FLOPs done and in total.
    """
    several = {key: found for key, found in candidates.items() if len(found) > 1}
    everything = [policy for found in several.values() for policy in found]
    if everything:
        quantum = max(KL_QUANTUM, engine.noise_floor(samples, progress))
        engine.measure(everything, samples, progress)
    chosen = {}
    for key, found in candidates.items():
        before = found[0].provenance.get(EVALUATIONS, 0)
        if key not in several:
            chosen[key] = with_evaluations(found[0], before)
            continue
        counted = CountedMeasure(SampleMeasure(engine, samples))
        ties = np.rint(counted(found).mean(axis=1) / quantum)
        best = min(range(len(found)), key=lambda i: (ties[i], cost(found[i]), i))
        chosen[key] = with_evaluations(found[best], before + counted.evaluations)
    return chosen
