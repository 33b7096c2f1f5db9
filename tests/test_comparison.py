"""The baselines of the final table use up the budget, and the table says what was measured."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsearch import builders
from opsearch.answers import Answers
from opsearch.budget import total_cost
from opsearch.comparison import Row, baselines, table
from opsearch.costs import COSTS
from opsearch.costs.shape import Shape
from opsearch.policy import RankerSpec
from opsearch.runtime.load import load_config

LAYERS = 12
CLS = RankerSpec("cls")
FLOPS = COSTS["flops"](Shape.from_config(load_config("demo")))
PAIRS = [(100, 11), (100, 14), (64, 9)]
STOCK = total_cost(FLOPS, builders.identity(LAYERS), PAIRS)


def found(limit, ranker=CLS, layers=LAYERS):
    return baselines(layers, ranker, lambda policy: total_cost(FLOPS, policy, PAIRS) <= limit)


def largest(build, limit):
    """The largest of all 1000 shares whose policy keeps within the limit, by trying each."""
    fitting = [
        policy
        for policy in (build(Fraction(i, 1000)) for i in range(1, 1001))
        if total_cost(FLOPS, policy, PAIRS) <= limit
    ]
    return fitting[-1].counts if fitting else None


@pytest.mark.parametrize("percent", [20, 30, 75])
def test_each_baseline_is_the_largest_that_fits(percent):
    limit = STOCK * percent // 100
    policies = found(limit)
    assert all(total_cost(FLOPS, policy, PAIRS) <= limit for policy in policies.values())
    for name in ("cls", "uniform", "random"):
        build = lambda share, spec=RankerSpec(name): builders.tokens(LAYERS, share, spec)  # noqa: E731
        assert policies[f"tokens {name}"].counts == largest(build, limit)
        assert policies[f"tokens {name}"].rankers == ((0, RankerSpec(name)),)
    fitting = [k for k in range(LAYERS + 1) if _cost(builders.vtw(LAYERS, k)) <= limit]
    assert policies["VTW"] == builders.vtw(LAYERS, max(fitting))
    fastv = [largest(lambda s, k=k: builders.stages(LAYERS, {0: 1, k: s}), limit) for k in (2, 1)]
    assert policies["FastV-like"].counts == next(counts for counts in fastv if counts)


@given(st.integers(0, STOCK))
def test_no_baseline_exceeds_any_budget(limit):
    assert all(_cost(policy) <= limit for policy in found(limit).values())


def test_methods_that_cannot_meet_the_budget_are_left_out():
    nothing = _cost(builders.vtw(LAYERS, 0))
    assert list(found(nothing)) == ["VTW"]
    assert found(nothing - 1) == {}


def test_everything_fits_the_whole_budget():
    for policy in found(STOCK).values():
        assert policy.is_identity(100) or policy == builders.vtw(LAYERS, LAYERS)


def test_one_row_per_method_when_the_runs_ranker_is_a_baseline_too():
    assert list(found(STOCK, RankerSpec("uniform"))) == [
        "tokens uniform",
        "tokens random",
        "VTW",
        "FastV-like",
    ]


def _cost(policy):
    return total_cost(FLOPS, policy, PAIRS)


def answers(*scores):
    return Answers(("",) * len(scores), np.array(scores), ("a", "a", "b", "c"))


def row(label, scores=None, heldout=(0.5, 1.5)):
    kl, heldout = np.array([0.25, 0.75]), np.array(heldout)
    return Row(label, builders.identity(2), 0.25, 1e9, kl, heldout, scores)


def test_the_table_averages_over_families():
    frame = table([row("original", answers(1, 1, 0.5, 0)), row("mine", answers(1, 0, 0.5, 1))])
    assert frame.columns.tolist() == ["original", "mine"]
    assert frame["mine"].to_dict() == pytest.approx(
        {
            "FLOPs, mean": 1e9,
            "% of stock": 25,
            "KL calibration": 0.5,
            "KL held-out": 1.0,
            "Rel. Avg., %": 100 * (0.5 + 1) / 2,  # the original never solves c
            "accuracy, %": 100 * (0.5 + 0.5 + 1) / 3,
            "  a": 50,
            "  b": 50,
            "  c": 100,
        }
    )


def test_without_held_out_data_or_answers_there_is_still_a_table():
    frame = table([row("original", heldout=()), row("mine", heldout=())])
    assert np.isnan(frame["mine"]["KL held-out"])
    assert not any("accuracy" in name or "Rel" in name for name in frame.index)
