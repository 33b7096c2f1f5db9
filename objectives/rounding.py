"""Rounding of objectives, so that differences below the noise floor are ties."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from opsearch.objectives.joint import Joint
from opsearch.problem.objective import Blackbox, Measure, Objective, Pairwise, Separable, Table
from opsearch.problem.spaces.base import Space


def rounded(objective: Objective, floor: float) -> Objective:
    """Round an objective to multiples of `floor` nats, so that smaller differences are ties.

    Objectives with a larger quantum or another unit are returned unchanged.
    """
    if objective.unit != "nats" or objective.quantum >= floor:
        return objective

    def to_floor(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.rint(values / floor) * floor)

    match objective:
        case Table():
            lower = None if objective.lower is None else to_floor(objective.lower)
            values = to_floor(objective.values)
            return replace(objective, values=values, lower=lower, quantum=floor)
        case Separable():
            terms = tuple(to_floor(term) for term in objective.terms)
            return replace(objective, terms=terms, quantum=floor)
        case Blackbox():
            measured = objective.evaluate
            return replace(
                objective, evaluate=lambda indices: to_floor(measured(indices)), quantum=floor
            )
        case Pairwise():
            terms = tuple(to_floor(term) for term in objective.terms)
            pairs = {pair: float(to_floor(np.array(w))) for pair, w in objective.pairs.items()}
            return replace(objective, terms=terms, pairs=pairs, quantum=floor)
    return objective


def lazy_joint(space: Space, measure: Measure, floor: float) -> Blackbox:
    """Return the true divergence, measured on request, in whole multiples of `floor` nats."""
    made = rounded(Joint(lazy=True).make(space, measure, np.zeros(0, bool)), floor)
    assert isinstance(made, Blackbox)  # lazily made, and rounded as it was
    return made
