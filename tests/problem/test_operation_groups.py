"""The groups of space `operations`: any nested shares of the tokens, with the laws of the usual."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsearch.costs.flops import Flops
from opsearch.costs.kv import KVBytes
from opsearch.policy.counts import KV, MLP, Q, live, resolve_fraction
from opsearch.problem.budget import total_cost
from opsearch.problem.spaces.operation_costs import operation_costs
from opsearch.problem.spaces.operations import GROUPS, check_groups, operations_space
from opsearch.testing.example_problems import TINY
from tests.support.messages import naming
from tests.support.spaces import drawn_groups

SAMPLES = [(9, 5), (20, 7)]
KEPT = ((), ((0, Q), (1, MLP)), ((0, KV),))


@st.composite
def spaces(draw):
    """A space of 1 to 4 layers with any groups, some with kept operations."""
    layers = draw(st.integers(1, 4))
    kept = [(at, module) for at, module in draw(st.sampled_from(KEPT)) if at < layers]
    return operations_space(layers, kept=kept, groups=draw(drawn_groups()))


def rows(space):
    """Rows of value indices."""
    return st.tuples(*(st.integers(0, len(p.values) - 1) for p in space.parameters))


@settings(max_examples=100, deadline=None)
@given(data=st.data(), space=spaces(), n_visual=st.integers(0, 700))
def test_rows_numbers_and_policies_agree(data, space, n_visual):
    row = data.draw(rows(space))
    index = space.index_of(row)
    stands = space.row(index)
    assert space.index_of(stands) == index
    assert space.row(space.index_of(stands)) == stands
    assert space.decode(stands) == space.decode(row)
    counts = space.decode(row).resolve(n_visual)
    assert (space.resolved(np.array([row]), n_visual)[0] == counts).all()
    assert (live(counts) == counts).all()
    possible = {resolve_fraction(level, n_visual) for level in space.levels}
    assert {*counts.ravel().tolist()} <= possible
    for layer, module in space.kept - {(space.num_layers - 1, Q)}:
        assert counts[layer, module] == n_visual


@settings(max_examples=40, deadline=None)
@given(data=st.data(), space=spaces(), cost=st.sampled_from([Flops, KVBytes]))
def test_costs_are_those_of_the_policies_one_by_one(data, space, cost):
    counted = cost(replace(TINY, layers=space.num_layers))
    costs = operation_costs(counted, space, SAMPLES)
    for _ in range(3):
        row = data.draw(rows(space))
        assert costs[space.index_of(row)] == total_cost(counted, space.decode(row), SAMPLES)


def test_the_usual_groups_are_gsops_and_name_policies_as_before():
    usual, given_ = operations_space(2), operations_space(2, groups=(Fraction(1, 4), Fraction(1)))
    assert usual == given_
    assert usual.levels == (0, Fraction(1, 4), 1)
    assert usual.decode([1, 2, 0, 2, 0]).name == "operations(q=10, kv=22, mlp=00, n_v=1)"


def test_the_name_of_a_policy_says_what_its_digits_stand_for():
    groups = tuple(Fraction(k, 9) for k in range(1, 10))
    space = operations_space(2, groups=groups)
    names = {space.decode([k, 9, 0, 9, 0]).name for k in range(10)}
    assert len(names) == 10
    assert all(len(name) == len(min(names)) for name in names)
    others = [operations_space(2, groups=groups[first:]) for first in range(3, 7)]
    assert len({other.decode([1, 2, 0, 2, 0]).name for other in others}) == 4


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        ("1/4,1/8,1", ("1/8", "1/4")),
        ("1/4,1/4,1", ("1/4",)),
        ("1,1/4", ("1/4", 1)),
        ("-1/4,1", ("-1/4", 0)),
        ("0,1", (0,)),
        ("1/8,1/4", ("1/4,1",)),
        ("1/2,1,2", (1,)),
        ("1", ("--space layers", "1/4,1")),
        ("", ("1/4,1",)),
        (",".join(f"{k}/36" for k in range(1, 37)), (36, 35)),
    ],
)
def test_other_groups_are_refused(texts, values):
    groups = [Fraction(text) for text in texts.split(",") if text]
    with pytest.raises(ValueError, match=naming(*values)):
        check_groups(groups)
    with pytest.raises(ValueError, match=naming(*values)):
        operations_space(2, groups=groups)
    check_groups(GROUPS)
