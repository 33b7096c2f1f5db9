"""Candidates of the baselines: for each setting of the knobs the largest ratio within a budget."""

from fractions import Fraction
from functools import cache

import pytest

from opsearch.costs import COSTS
from opsearch.costs.shape import Shape
from opsearch.models.loading import load_config
from opsearch.policy import builders
from opsearch.policy.baseline import candidates
from opsearch.policy.ranker import RankerSpec
from opsearch.problem.budget import total_cost
from opsearch.rankers import DECODER_RANKERS

LAYERS = 12
CLS = RankerSpec("cls")
FLOPS = COSTS["flops"](Shape.from_config(load_config("demo")))
PAIRS = [(100, 11), (64, 9)]
STOCK = total_cost(FLOPS, builders.identity(LAYERS), PAIRS)
USABLE = ("uniform", "vispruner", *DECODER_RANKERS)


def _cost(policy):
    return total_cost(FLOPS, policy, PAIRS)


@cache
def _found(percent, **given):
    limit = STOCK * percent // 100
    return candidates(LAYERS, CLS, lambda policy: _cost(policy) <= limit, USABLE, **given)


@pytest.mark.parametrize("percent", [15, 50])
def test_every_candidate_is_within_the_budget_and_named(percent):
    for label, policies in _found(percent).items():
        assert len(set(policies)) == len(policies)
        for policy in policies:
            assert _cost(policy) <= STOCK * percent // 100
            assert policy.provenance["baseline"] == label


def test_each_first_layer_has_the_largest_share_that_fits():
    policies = {p.provenance["setting"]: p for p in _found(15)["FastV like"]}
    for k in range(1, LAYERS):
        shares = [Fraction(step, 1000) for step in range(1, 1001)]
        makes = [builders.stages(LAYERS, {0: 1, k: share}, CLS) for share in shares[::10]]
        fitting = [policy for policy in makes if _cost(policy) <= STOCK * 15 // 100]
        assert (f"k={k}" in policies) == bool(_cost(makes[0]) <= STOCK * 15 // 100)
        if fitting:
            assert policies[f"k={k}"].counts[-1][0] >= fitting[-1].counts[-1][0]


def test_published_settings_come_first():
    found = _found(50)
    firsts = {label: policies[0].provenance["setting"] for label, policies in found.items()}
    assert firsts["FastV like"] == firsts["FastV"] == "k=2"
    assert firsts["PyramidDrop"] == "first=3"
    assert firsts["SparseVLM"] == "budget=192"
    assert firsts["tokens vispruner"] == "important=0.5"
    assert firsts["VTW"] == firsts["tokens uniform"] == ""
    assert {len(found[label]) for label in ("tokens uniform", "VTW")} == {1}


def test_a_run_compares_some_of_all_baselines():
    assert list(_found(50, in_run=True)["FastV like"]) == list(_found(50)["FastV like"])
    assert _found(50, in_run=True).keys() <= _found(50).keys()
