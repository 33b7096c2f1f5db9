"""Objectives in whole steps: exact for multiples of a quantum, else within an error bound."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsearch.problem.objective import Pairwise, Separable
from opsearch.problem.problem import Problem
from opsearch.problem.spaces.depth import dop_space, tokens_space
from opsearch.solvers.integer.quantise import ROW_LIMIT, integer_terms
from opsearch.solvers.integer.slices import slices_of
from opsearch.testing.example_problems import N_V_TEST, random_pairs, random_problem


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), exponent=st.floats(-9, 3), exact=st.booleans())
def test_integer_sums_are_values_within_the_error_bound(
    seed: int, exponent: float, exact: bool
) -> None:
    problem = random_problem(seed, scale=10**exponent, exact_ties=exact)
    objective, points = problem.objective, problem.space.points
    assert isinstance(objective, Separable)
    terms = integer_terms(objective)
    sums = terms.sums(points)
    assert sum(int(np.abs(term).sum()) for term in terms.coefficients) < ROW_LIMIT
    if exact:
        assert terms.error_bound == 0
        assert (sums == np.rint(objective.values / objective.quantum)).all()
    else:
        errors = np.abs(terms.offset + terms.step * sums - objective.values)
        assert errors.max() <= terms.error_bound / 2
        assert terms.error_bound < 1e-6 * 10**exponent


def test_multiples_that_do_not_fit_a_float_are_scaled() -> None:
    space = tokens_space(2, N_V_TEST)
    term = np.array([4e9, 3e9, 1e9, 0.0])
    objective = Separable("large", "nats", space, (term,), 1e-9)
    terms = integer_terms(objective)
    assert 0 < terms.error_bound < 20


def test_terms_off_the_quantum_are_scaled() -> None:
    # Each sum is a whole multiple, no term is: rounding them one by one would be wrong.
    space = dop_space(2, N_V_TEST)
    sizes = [len(parameter.values) for parameter in space.parameters]
    shifts = zip(sizes, (0.5, 0.5, 0.0), strict=True)
    terms = tuple(np.linspace(shift, size - 1 + shift, size) for size, shift in shifts)
    objective = Separable("shifted", "nats", space, terms, 1.0)
    scaled = integer_terms(objective)
    assert scaled.error_bound > 0
    (part,) = slices_of(Problem(space, objective), scaled)
    index = len(space.points) // 2
    value = scaled.offset + scaled.step * part.value.at(space.row(index))
    assert value == pytest.approx(objective.value(index))


@pytest.mark.parametrize("seed", range(4))
def test_sums_and_the_form_of_a_program_have_the_same_pairs(seed: int) -> None:
    problem = random_pairs(seed)
    objective = problem.objective
    assert isinstance(objective, Pairwise)
    terms = integer_terms(objective)
    (part,) = slices_of(problem, terms)
    assert part.rows is not None
    sums = terms.sums(part.rows).tolist()
    assert sums == [part.value.at(row) for row in part.rows.tolist()]
    values = [objective.value(index) for index in np.flatnonzero(problem.feasible)]
    assert np.array(sums) * objective.quantum == pytest.approx(values)
