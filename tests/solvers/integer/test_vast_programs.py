"""Programs whose coefficients exceed 64 bits, against a loop over all rows."""

from itertools import product
from threading import Event

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsearch.problem.solution import Status
from opsearch.solvers.integer.minimum import Program
from opsearch.solvers.integer.slices import LinearForm, Slice
from opsearch.solvers.ortools import _CpSatPrograms
from opsearch.solvers.scipy import _HighsPrograms

CHOICES, SIZE = 4, 3


@st.composite
def forms(draw, values):
    """A form that varies in its last digits only, or by more than 64 bits.

    The values of parameters have positive coefficients, which mostly differ in their last digits.
    """
    scale = draw(st.sampled_from([1, 2**53, 2**64, 10**30]))
    coefficient = st.integers(scale, scale + 9)
    choices = {(k, i): draw(coefficient) for k in range(CHOICES) for i in values}
    pairs = {}
    if draw(st.booleans()):
        pairs[(0, 1), (1, 1)] = draw(coefficient)
        pairs[(1, 0), (2, 2)] = -draw(coefficient)
    return LinearForm(draw(st.integers(0, 2**70)), choices, pairs)


@st.composite
def programs(draw):
    # What is best is dearest.
    objective, cost = draw(forms(range(SIZE - 1))), draw(forms(range(1, SIZE)))
    values = sorted({cost.at(row) for row in product(range(SIZE), repeat=CHOICES)})
    limit = draw(st.sampled_from(values)) - draw(st.sampled_from([0, 1]))
    options = tuple(np.arange(SIZE) for _ in range(CHOICES))
    return Program(Slice(options, objective, (cost,)), objective, ((cost, limit),))


def least(program):
    """Return the lowest objective of all rows within the limits; None without any."""
    rows = product(range(SIZE), repeat=CHOICES)
    within = [row for row in rows if all(form.at(row) <= limit for form, limit in program.limits)]
    return min(map(program.objective.at, within), default=None)


@pytest.mark.parametrize("name", ["ortools", "scipy"])
@settings(max_examples=25)
@given(program=programs())
def test_answers_are_those_of_a_loop(name, program):
    library = _CpSatPrograms(0, None, Event()) if name == "ortools" else _HighsPrograms()
    answer, best = library.minimise(program, None, 1.0), least(program)
    if best is None:
        assert answer.status is Status.INFEASIBLE
        return
    assert answer.row is not None
    assert all(form.at(answer.row) <= limit for form, limit in program.limits)
    assert answer.bound is not None
    assert answer.bound <= best <= program.objective.at(answer.row)
    if name == "ortools":
        assert answer.bound == best == program.objective.at(answer.row)
    if answer.bound == program.objective.at(answer.row):  # then it is called optimal
        assert answer.bound == best
