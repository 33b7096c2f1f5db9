"""What solvers see where rounding hides small differences."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from opsearch.objectives.joint import Joint
from opsearch.problem.objective import Blackbox, Measure, Objective, Pairwise, Separable, Table
from opsearch.problem.spaces.base import Space


def with_ties(objective: Objective, floor: float) -> Objective:
    """The objective in whole multiples of `floor` nats, so that smaller differences are ties.

    Unchanged where its own quantum is no finer, and where it is no divergence.
    """
    if objective.unit != "nats" or objective.quantum >= floor:
        return objective

    def rounded(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.rint(values / floor) * floor)

    match objective:
        case Table():
            return replace(objective, values=rounded(objective.values), quantum=floor)
        case Separable():
            terms = tuple(rounded(term) for term in objective.terms)
            return replace(objective, terms=terms, quantum=floor)
        case Blackbox():
            measured = objective.evaluate
            return replace(
                objective, evaluate=lambda indices: rounded(measured(indices)), quantum=floor
            )
        case Pairwise():
            terms = tuple(rounded(term) for term in objective.terms)
            pairs = {pair: float(rounded(np.array(w))) for pair, w in objective.pairs.items()}
            return replace(objective, terms=terms, pairs=pairs, quantum=floor)
    return objective


def lazy_joint(space: Space, measure: Measure, floor: float) -> Blackbox:
    """The true divergence, measured point by point, in whole multiples of `floor` nats."""
    made = with_ties(Joint(lazy=True).make(space, measure, np.zeros(0, bool)), floor)
    assert isinstance(made, Blackbox)  # lazily made, and rounded as it was
    return made
