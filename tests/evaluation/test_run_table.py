"""The baselines of the final table use up the budget, and the table says what was measured."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsearch.costs import COSTS
from opsearch.costs.shape import Shape
from opsearch.evaluation.answers import Answers
from opsearch.evaluation.baselines import BASELINES, shortv_in_order
from opsearch.evaluation.run_table import MeasuredPolicy, table
from opsearch.models.loading import load_config
from opsearch.policy import builders
from opsearch.policy.baseline import candidates
from opsearch.policy.ranker import RankerSpec
from opsearch.problem.budget import total_cost
from opsearch.rankers import DECODER_RANKERS, RANKERS

LAYERS = 12
CLS = RankerSpec("cls")
FLOPS = COSTS["flops"](Shape.from_config(load_config("demo")))
PAIRS = [(100, 11), (100, 14), (64, 9)]
STOCK = total_cost(FLOPS, builders.identity(LAYERS), PAIRS)


def found(limit, ranker=CLS, layers=LAYERS):
    return baselines(lambda policy: _cost(policy) <= limit, ranker, layers)


def baselines(fits, ranker=CLS, layers=LAYERS, frozen_first=(), **given):
    """Published settings of the baselines of a run."""
    measured = {"ShortV": shortv_in_order(frozen_first)} if frozen_first else {}
    methods = candidates(layers, ranker, fits, measured=measured, in_run=True, **given)
    return {label: policies[0] for label, policies in methods.items()}


def share_of(policy):
    """The share of tokens that a policy keeps in its last layer."""
    return policy.counts[-1][0]


@pytest.mark.parametrize("percent", [20, 30, 75])
@pytest.mark.parametrize("name", ["cls", "uniform", "random"])
def test_token_reduction_takes_the_largest_share_that_fits(percent, name):
    limit, spec = STOCK * percent // 100, RankerSpec(name)
    policy = found(limit)[f"tokens {name}"]
    share = share_of(policy)
    assert policy == builders.tokens(LAYERS, share, spec)
    more = [share + Fraction(step, 1000) for step in (1, 2, 5, 20, 100)]
    assert _cost(policy) <= limit
    assert all(_cost(builders.tokens(LAYERS, value, spec)) > limit for value in more)


@pytest.mark.parametrize("percent", [15, 20, 30, 75])
def test_withdrawal_takes_the_deepest_layer_that_fits(percent):
    limit = STOCK * percent // 100
    fitting = [k for k in range(LAYERS + 1) if _cost(builders.vtw(LAYERS, k)) <= limit]
    assert found(limit)["VTW"] == builders.vtw(LAYERS, max(fitting))


@pytest.mark.parametrize(("percent", "k"), [(75, 2), (30, 2), (17, 1)])
def test_fastv_keeps_two_layers_where_it_can(percent, k):
    limit = STOCK * percent // 100
    policy = found(limit)["FastV like"]
    share = share_of(policy)
    assert policy == builders.stages(LAYERS, {0: 1, k: share}, CLS)
    assert (
        _cost(policy)
        <= limit
        < _cost(builders.stages(LAYERS, {0: 1, k: share + Fraction(1, 1000)}, CLS))
    )


@settings(max_examples=15)
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
        "FastV like",
    ]


@pytest.mark.parametrize("percent", [30, 50, 75])
def test_shortv_freezes_as_few_layers_as_it_can(percent):
    limit, order = STOCK * percent // 100, (11, 3, 7, 9, 10, 2, 5, 8, 6, 4, 1, 0)
    policy = baselines(lambda p: _cost(p) <= limit, frozen_first=order)["ShortV"]
    frozen = [builders.shortv(LAYERS, order[:count]) for count in range(LAYERS + 1)]
    assert policy == next(p for p in frozen if _cost(p) <= limit)


def test_a_method_out_of_reach_tells_what_it_takes():
    missed = {}
    reach = _cost(builders.shortv(LAYERS, range(LAYERS)))
    given = {"frozen_first": range(LAYERS), "missed": missed.__setitem__}
    assert "ShortV" in baselines(lambda p: _cost(p) <= reach, **given)
    assert missed == {}
    assert "ShortV" not in baselines(lambda p: _cost(p) < reach, **given)
    assert missed == {"ShortV": builders.shortv(LAYERS, range(LAYERS))}


def _cost(policy):
    return total_cost(FLOPS, policy, PAIRS)


def answers(*scores):
    return Answers(("",) * len(scores), np.array(scores), ("a", "a", "b", "c"))


def row(label, scores=None, heldout=(0.5, 1.5)):
    kl, heldout = np.array([0.25, 0.75]), np.array(heldout)
    costs = {"flops": (1e9, 0.25), "prefill": (2e9, 0.5), "kv": (2e6, 0.5), "latency": (3e6, 0.75)}
    return MeasuredPolicy(label, builders.identity(2), costs, kl, heldout, scores, 7)


def test_the_table_averages_over_families():
    frame = table([row("original", answers(1, 1, 0.5, 0)), row("mine", answers(1, 0, 0.5, 1))])
    assert frame.columns.tolist() == ["original", "mine"]
    assert frame["mine"].to_dict() == pytest.approx(
        {
            "FLOPs, mean": 1e9,
            "% of stock": 25,
            "+ vision, mean": 2e9,
            "+ vision, %": 50,
            "KV bytes, mean": 2e6,
            "KV, %": 50,
            "prefill ms": 3,
            "prefill, %": 75,
            "evaluations": 7,
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


@pytest.mark.parametrize("name", ["% of stock", "KL held-out", "accuracy, %"])
def test_a_family_does_not_hide_a_measured_row(name):
    """Families are named by whoever wrote the data."""
    scores = Answers(("", ""), np.array([1.0, 0.0]), (name, "other"))
    frame = table([row("original", scores), row("mine", scores)])
    plain = table([row("original", answers(1, 1, 1, 1)), row("mine", answers(1, 1, 1, 1))])
    assert len(frame) == len(plain) - 1


def test_baselines_of_the_rankers_that_a_model_serves():
    limit = STOCK * 3 // 10
    cost = {"fits": lambda policy: _cost(policy) <= limit, "usable": ("vispruner", "divprune")}
    methods = baselines(**cost)
    assert list(methods) == [
        "tokens cls",
        "tokens vispruner",
        "tokens divprune",
        "VTW",
        "FastV like",
    ]
    shares = {share_of(methods[f"tokens {name}"]) for name in ("cls", "vispruner", "divprune")}
    assert len(shares) == 1
    assert methods["tokens divprune"].rankers == ((0, RankerSpec("divprune")),)


@pytest.mark.parametrize("percent", [30, 50])
def test_methods_that_rank_inside_the_decoder_spend_the_budget(percent):
    """FastV as much as its counts in the order of the run's ranker do."""
    limit, usable = STOCK * percent // 100, tuple(DECODER_RANKERS)
    methods = baselines(lambda policy: _cost(policy) <= limit, usable=usable)
    assert list(methods)[-3:] == ["FastV", "PyramidDrop", "SparseVLM"]
    assert methods["FastV"].counts == methods["FastV like"].counts
    for name in ("FastV", "PyramidDrop", "SparseVLM"):
        assert 0.95 * limit < _cost(methods[name]) <= limit
        assert {spec.name for _, spec in methods[name].rankers} == {name.lower()}


def test_rankers_of_baselines_exist():
    own = {method.ranker for method in BASELINES.values()} - {None}
    # Data sets hold images, of which EVS keeps all.
    assert own == RANKERS.keys() - {"evs"} | DECODER_RANKERS.keys()
