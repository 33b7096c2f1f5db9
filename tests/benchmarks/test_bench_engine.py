"""The suite `engine` compares like with like, on a few layers."""

from fractions import Fraction

import pytest

from benchmarks.engine import compared, shared
from benchmarks.engine_share import engine_share
from benchmarks.individual import individual
from opsearch.policy.ranker import RankerSpec
from opsearch.problem.spaces.depth import depth_space, dop_space
from opsearch.problem.spaces.stages import stages_space

CLS, FASTV = RankerSpec("cls"), RankerSpec("fastv")


@pytest.mark.parametrize(
    ("space", "policies"),
    [
        (dop_space(4, [Fraction(1)], CLS), 11),
        (depth_space(4, [Fraction(1)], CLS), 31),
        (stages_space(4, [Fraction(1, 2)], FASTV), 10),
    ],
    ids=["dop", "depth", "stages"],
)
def test_both_ways_give_the_same_divergences(space, policies):
    row = compared(space, side=3, every=2)
    assert (row["visual_tokens"], row["timed_alone"]) == (9, (row["policies"] + 1) // 2)
    assert row["policies"] == policies
    assert 1 < row["forwards"] < row["one_by_one_forwards"] < row["policies"]
    assert row["max_difference_nats"] < 5e-6
    assert row["points"] > row["policies"]


def test_individual_divergences_are_the_same_both_ways():
    row = individual(dop_space(4, [Fraction(1, 3), Fraction(1)], CLS), side=3)
    # 5 depths of each kind and 2 shares; all of each, and all but the last MLP, are the original.
    assert (row["values"], row["policies"]) == (12, 8)
    assert 1 < row["forwards"] < row["one_by_one_forwards"] < row["policies"]
    assert row["max_difference_nats"] < 5e-6


def test_questions_on_one_image_cost_less_than_on_their_own():
    row = shared(questions=3, side=3, layers=4)
    assert row["questions"] == 3
    assert row["forwards_one_image"] < row["forwards_own_images"]


def test_the_share_of_the_matmul_peak():
    individual_row, unrelated = engine_share(tiny=True)
    assert (unrelated["policies"], unrelated["samples"]) == (32, 2)
    assert individual_row["policies"] > unrelated["policies"]
    assert all(0 < row["share_of_matmul_peak"] < 1 for row in (individual_row, unrelated))
