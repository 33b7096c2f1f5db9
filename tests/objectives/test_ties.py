"""Differences below the floor are ties for every form of objective."""

import numpy as np

from opsearch.objectives.ties import with_ties
from opsearch.problem import KL_QUANTUM, Blackbox, Separable, Table

VALUES = np.array([0.0, 0.004, 0.006, np.nan, 0.0151])
STEPS = [0, 0, 1, 2]


def test_every_form_comes_in_steps_of_the_floor():
    points = np.arange(5)[:, None]
    forms = (
        Table("joint", "nats", VALUES, KL_QUANTUM),
        Separable("additive", "nats", points, (VALUES,), KL_QUANTUM),
        Blackbox("joint", "nats", lambda index: float(VALUES[index]), KL_QUANTUM),
    )
    for objective in forms:
        tied = with_ties(objective, 0.01)
        assert tied.quantum == 0.01
        assert [tied.value(i) for i in (0, 1, 2, 4)] == [0.01 * step for step in STEPS]


def test_what_is_no_finer_or_no_divergence_stays():
    objective = Table("joint", "nats", VALUES, KL_QUANTUM)
    assert with_ties(objective, KL_QUANTUM) is objective
    other = Table("errors", "questions", VALUES)
    assert with_ties(other, 0.01) is other
