"""Slices cover every point once and reproduce every cost to the integer."""

from itertools import product
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsearch.example_problems import N_V_TEST, flops_like, kv_like, random_problem
from opsearch.problem import Separable
from opsearch.solvers.decompose import Slice
from opsearch.solvers.forms import cost_form, rank_form, value_form
from opsearch.solvers.scaling import ROW_LIMIT, integer_terms
from opsearch.solvers.slices import find_slices
from opsearch.spaces import Space, depth_space, dop_space, tokens_space

SPACES = [
    tokens_space(5, N_V_TEST),
    dop_space(5, N_V_TEST),
    dop_space(5, N_V_TEST, kv="stays"),
    depth_space(4, N_V_TEST),
]


def rows_of(part: Slice) -> list[tuple[int, ...]]:
    """All combinations of the options that are not excluded."""
    rows = product(*(options.tolist() for options in part.options))
    return [
        row
        for row in rows
        if not any(all(row[k] == i for k, i in absent) for absent in part.excluded)
    ]


def check(space: Space, costs: np.ndarray) -> list[Slice]:
    slices = find_slices(space.points, costs)
    found = {}
    for part in slices:
        for row in rows_of(part):
            assert row not in found
            found[row] = [cost_form(c)(part).at(row) for c in range(len(costs))]
    expected = dict(zip(map(tuple, space.points.tolist()), costs.T.tolist(), strict=True))
    assert found == expected
    return slices


@pytest.mark.parametrize("space", SPACES, ids=["tokens", "dop", "dop, kv stays", "depth"])
def test_real_costs_need_one_slice_per_share_of_tokens(space: Space) -> None:
    slices = check(space, np.array([flops_like(space), kv_like(space)]))
    assert len(slices) <= len(N_V_TEST) + 1
    # Pairs are needed only for the value that stands for all dead depths, and the original model.
    layers = space.num_layers
    assert max(len(part.pairs) for part in slices) <= 2 * layers


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), odd=st.integers(0, 6))
def test_odd_points_and_noise(seed: int, odd: int) -> None:
    random = np.random.default_rng(seed)
    space = SPACES[seed % 4]
    costs = np.array([flops_like(space), kv_like(space)])
    where = random.choice(costs.shape[1], min(odd, costs.shape[1]), replace=False)
    costs[0, where] += random.integers(-50, 50, len(where))
    check(space, costs)
    check(space, random.integers(0, 9, costs.shape))


def test_rank_is_the_lexicographic_order() -> None:
    space = SPACES[1]
    sizes = [len(parameter.values) for parameter in space.parameters]
    slices = find_slices(space.points, np.zeros((1, len(space.points)), np.int64))
    ranks = {row: rank_form(sizes)(part).at(row) for part in slices for row in rows_of(part)}
    assert sorted(ranks, key=ranks.__getitem__) == sorted(ranks)
    assert max(ranks.values()) == prod(sizes) - 1


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6), exponent=st.floats(-9, 3), exact=st.booleans())
def test_integer_sums_are_values_within_the_error_bound(
    seed: int, exponent: float, exact: bool
) -> None:
    problem = random_problem(seed, scale=10**exponent, exact_ties=exact)
    objective, points = problem.objective, problem.space.points
    assert isinstance(objective, Separable)
    terms = integer_terms(objective)
    columns = zip(terms.coefficients, points.T, strict=True)
    sums = np.sum([term[column] for term, column in columns], axis=0)
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
    part = find_slices(space.points, np.zeros((1, len(space.points)), np.int64))[0]
    row = rows_of(part)[0]
    value = scaled.offset + scaled.step * value_form(scaled)(part).at(row)
    index = space.points.tolist().index(list(row))
    assert value == pytest.approx(objective.value(index))
