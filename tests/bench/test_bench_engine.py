"""The suite `engine` compares like with like, on a few layers."""

import pytest

from opsearch.bench.__main__ import SUITES
from opsearch.bench.engine import compared
from opsearch.spaces import depth_space, dop_space


@pytest.mark.parametrize(("make", "policies"), [(dop_space, 13), (depth_space, 36)])
def test_both_ways_give_the_same_divergences(make, policies):
    row = compared(make, side=3, every=2, layers=4)
    assert (row["visual_tokens"], row["timed_alone"]) == (9, (row["policies"] + 1) // 2)
    assert row["policies"] == len(make(4, [1]).points)
    assert 1 < row["forwards"] < row["one_by_one_forwards"] < row["policies"]
    assert row["max_difference_nats"] < 5e-6
    assert row["ratio"] == pytest.approx(row["one_by_one_s"] / row["together_s"], rel=1)


def test_the_suite_can_be_named():
    assert "engine" in SUITES
