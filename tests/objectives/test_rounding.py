"""Every form of objective rounds differences below the noise floor to ties."""

from fractions import Fraction

import numpy as np

from opsearch.objectives.rounding import rounded
from opsearch.problem.objective import KL_QUANTUM, Blackbox, Pairwise, Separable, Table
from opsearch.problem.spaces.depth import tokens_space

VALUES = np.array([0.0, 0.004, 0.006, np.nan, 0.0151])
STEPS = [0, 0, 1, 2]


def test_every_form_comes_in_steps_of_the_floor():
    space = tokens_space(2, [Fraction(n, 5) for n in range(1, 6)])
    forms = (
        Table("joint", "nats", VALUES, KL_QUANTUM),
        Separable("additive", "nats", space, (VALUES,), KL_QUANTUM),
        Pairwise("pairwise", "nats", space, (VALUES,), {((0, 1), (0, 2)): 0.011}, KL_QUANTUM),
        Blackbox("joint", "nats", lambda indices: VALUES[list(indices)], KL_QUANTUM),
    )
    for objective in forms:
        tied = rounded(objective, 0.01)
        assert tied.quantum == 0.01
        assert [tied.value(i) for i in (0, 1, 2, 4)] == [0.01 * step for step in STEPS]
    (tied,) = (rounded(each, 0.01) for each in forms if isinstance(each, Pairwise))
    assert list(tied.pairs.values()) == [0.01]


def test_what_is_no_finer_or_no_divergence_stays():
    objective = Table("joint", "nats", VALUES, KL_QUANTUM)
    assert rounded(objective, KL_QUANTUM) is objective
    other = Table("errors", "questions", VALUES)
    assert rounded(other, 0.01) is other
