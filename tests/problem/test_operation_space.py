"""Spaces with a choice per operation: points, liveness, exact costs, and what is kept."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsearch.costs.flops import Flops
from opsearch.costs.kv import KVBytes
from opsearch.errors import OpsearchError
from opsearch.policy.counts import KV, MLP, Q, live
from opsearch.problem.budget import Budget, constraint, total_cost
from opsearch.problem.constraint import check_budget
from opsearch.problem.spaces.operation_costs import operation_costs
from opsearch.problem.spaces.operations import layers_space, operations_space
from opsearch.runs.setup import parse_keep
from opsearch.testing.example_problems import TINY
from tests.support.messages import naming

SAMPLES = [(9, 5), (9, 5), (20, 7)]
HALVES = (Fraction(1, 2),)
FINER = (Fraction(1, 16), Fraction(1, 4), Fraction(1, 2), Fraction(1))
SPACES = {
    "layers": layers_space(4, HALVES),
    "operations": operations_space(4),
    "operations, finer": operations_space(4, groups=FINER),
    "layers, some kept": layers_space(4, HALVES, kept=[(0, Q), (2, MLP), (3, MLP)]),
    "layers, tied": layers_space(4, HALVES, tied=True),
    "layers, tied, some kept": layers_space(4, HALVES, kept=[(1, Q), (2, MLP)], tied=True),
}


def rows(space):
    sizes = [len(parameter.values) for parameter in space.parameters]
    return product(*map(range, sizes))


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_every_row_has_the_number_of_a_live_row_that_is_the_same_policy(space):
    random = np.random.default_rng(0)
    sizes = [len(parameter.values) for parameter in space.parameters]
    for row in random.integers(0, sizes, (200, len(sizes))).tolist():
        index = space.index_of(row)
        stands = space.row(index)
        assert space.index_of(stands) == index
        assert space.decode(stands) == space.decode(row)
        counts = space.decode(row).resolve(20)
        assert (live(counts) == counts).all()
        assert (space.resolved(np.array([row]), 20)[0] == counts).all()


def test_numbers_follow_the_order_of_rows():
    space = SPACES["layers"]
    numbers = [space.index_of(row) for row in rows(space) if space.row(space.index_of(row)) == row]
    assert numbers == sorted(set(numbers))


def test_the_last_row_prunes_nothing_that_is_read():
    for space in (layers_space(4), operations_space(4)):
        top = [len(parameter.values) - 1 for parameter in space.parameters]
        counts = space.decode(top).resolve(20)
        assert (counts[:-1] == 20).all()
        assert counts[-1].tolist() == [0, 20, 0]


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@pytest.mark.parametrize("cost", [Flops(TINY), KVBytes(TINY)], ids=["flops", "kv"])
def test_the_sum_over_layers_is_the_cost_of_the_policy(space, cost):
    costs = operation_costs(cost, space, SAMPLES)
    random = np.random.default_rng(1)
    sizes = [len(parameter.values) for parameter in space.parameters]
    for row in random.integers(0, sizes, (100, len(sizes))).tolist():
        policy = space.decode(row)
        assert costs[space.index_of(row)] == total_cost(cost, policy, SAMPLES)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_no_point_is_cheaper_than_the_cheapest_or_dearer_than_the_dearest(data):
    space = data.draw(st.sampled_from(list(SPACES.values())))
    row = [data.draw(st.integers(0, len(p.values) - 1)) for p in space.parameters]
    costs = operation_costs(Flops(TINY), space, SAMPLES)
    assert costs[costs.cheapest()] <= costs[space.index_of(row)] <= costs[costs.dearest()]


def test_kept_operations_stay_and_are_read():
    space = SPACES["layers, some kept"]
    for row in ([0] * len(space.parameters), [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]):
        counts = space.decode(row).resolve(20)
        assert counts[0, Q] == counts[2, MLP] == counts[3, KV] > 0
        assert counts[3, MLP] == 0


def test_tied_queries_equal_the_keys_except_in_the_last_layer_with_keys():
    space = layers_space(32, tied=True)
    assert [p.name for p in space.parameters[:3]] == ["attn0", "mlp0", "attn1"]
    # 64 bits without that of the last layer's MLP, which is dead.
    assert len(space.operations) == 63
    random = np.random.default_rng(2)
    for row in random.integers(0, 2, (50, 63)).tolist():
        counts = space.decode([*row, 0]).resolve(100)
        last = np.flatnonzero(counts[:, KV]).max()
        assert (counts[:last, Q] == counts[:last, KV]).all()
        assert counts[last, Q] == 0 < counts[last, KV]


def test_keeping_a_tied_operation_keeps_queries_and_keys():
    space = layers_space(4, HALVES, kept=[(1, Q), (2, KV)], tied=True)
    assert space.kept == {(1, Q), (1, KV), (2, Q), (2, KV)}


def test_the_operations_that_are_kept_are_read_from_the_option():
    assert parse_keep("0,1:mlp", 4) == {(0, Q), (0, KV), (0, MLP), (1, MLP)}
    for text in ("4", "1:attn", "x", "0;1"):
        with pytest.raises(OpsearchError, match=naming(f"--keep {text}", 0, 3, "q, kv, mlp")):
            parse_keep(text, 4)


def test_a_budget_below_what_is_kept_names_it():
    space = layers_space(4, HALVES, kept=[(0, Q), (0, KV), (0, MLP), (1, MLP)])
    limit = constraint(Budget.parse("30%"), Flops(TINY), space, SAMPLES)
    with pytest.raises(OpsearchError, match=r"30%.*\blayers\b.*q=1000"):
        check_budget(space, [limit])


def test_a_cost_that_is_no_sum_over_layers_is_refused():
    class Squared(Flops):
        def of(self, counts, n_visual, n_other, candidates=None):
            return super().of(counts, n_visual, n_other, candidates) ** 2

    with pytest.raises(OpsearchError, match=naming("flops")):
        operation_costs(Squared(TINY), SPACES["layers"], SAMPLES)


def test_points_are_not_listed():
    with pytest.raises(OpsearchError, match=naming("2^10 x 2", "--solver")):
        SPACES["layers"].points  # noqa: B018
