"""Budgets of the whole prefill: images, which no policy changes, and rankers in the decoder."""

import re
from fractions import Fraction

import numpy as np
import pytest

from opsearch import RankerSpec, builders
from opsearch.costs.base import SampleSize, image_cost
from opsearch.costs.flops import Flops
from opsearch.costs.kv import KVBytes
from opsearch.costs.prefill import Prefill
from opsearch.costs.rankings import ranking_flops
from opsearch.costs.shape import Shape
from opsearch.errors import InfeasibleBudgetError, OpsearchError
from opsearch.problem.budget import Budget, constraint, total_cost
from opsearch.problem.constraint import check_budget, feasible_points
from opsearch.problem.spaces.base import N_V_16, SpaceSettings
from opsearch.problem.spaces.depth import dop_space
from opsearch.problem.spaces.operation_costs import OperationCosts
from opsearch.problem.spaces.operations import Operations, Shares
from opsearch.problem.spaces.recipes import RecipeSpace
from opsearch.runs.relaxed import budget_of_shares
from tests.support.messages import refuses

TINY = Shape(layers=4, hidden=24, intermediate=44, heads=4, kv_heads=2, head_dim=6, vocab=50)
# Images of two samples with the same numbers of tokens may take different FLOPs.
SAMPLES = [SampleSize(64, 9, 3_000_001), SampleSize(64, 9, 5_000_000), SampleSize(16, 20, 0)]
IMAGES = 8_000_001
SETTINGS = SpaceSettings(num_layers=4, ranker=RankerSpec("cls"))
SPACES = {
    "listed": dop_space(4, N_V_16[:3], RankerSpec("cls")),
    "tables": Operations.from_settings(SETTINGS),
    "counted": Shares.from_settings(SETTINGS),
    "recipes": RecipeSpace(4),
}


def limited(text, cost, space=SPACES["listed"], samples=SAMPLES):
    return constraint(Budget.parse(text), cost, space, samples)


@pytest.mark.parametrize("text", ["50%prefill", "0.5x prefill", "-50% prefill"])
def test_shares_of_the_prefill(text):
    stock = sum(Flops(TINY).stock(s.n_visual, s.n_other) for s in SAMPLES) + IMAGES
    found = limited(text, Prefill(TINY))
    assert (found.stock, found.limit) == (stock, stock // 2)


@pytest.mark.parametrize("text", ["4M prefill", "4Mprefill"])
def test_amounts_of_the_prefill_are_named_by_the_cost_because_flops_are_the_decoders(text):
    assert Budget.parse(text).cost == "prefill"
    assert Budget.parse("4M FLOPs").cost == "flops"
    assert limited(text, Prefill(TINY)).limit == 3 * 4_000_000


@pytest.mark.parametrize("name", SPACES)
def test_every_point_costs_its_images_and_rankers_more(name):
    space = SPACES[name]
    decoder, whole = (limited("100%" + c.name, c, space) for c in (Flops(TINY), Prefill(TINY)))
    size = np.prod([len(each.values) for each in space.parameters], dtype=object)
    points = len(space.points) if space.listed else min(int(size), 10**12)
    for index in np.linspace(0, points - 1, 7, dtype=np.int64).tolist():
        policy = space.decode(space.row(index))
        ranked = sum(ranking_flops(policy, s.n_visual, s.n_other, TINY) for s in SAMPLES)
        assert (ranked > 0) == bool(policy.candidates(64))
        assert whole.cost(index) == decoder.cost(index) + IMAGES + ranked
    assert whole.cheapest == decoder.cheapest
    assert whole.floor == decoder.floor + IMAGES


def test_integer_programs_find_the_images_in_the_base():
    decoder, whole = (
        limited("100%" + c.name, c, SPACES["tables"]).costs for c in (Flops(TINY), Prefill(TINY))
    )
    assert isinstance(whole, OperationCosts)
    assert whole.base == decoder.base + IMAGES
    assert np.array_equal(whole.tables, decoder.tables)


def test_the_same_policies_are_within_the_limit_moved_by_the_images():
    decoder = limited("45%", Flops(TINY))
    whole = limited("100%prefill", Prefill(TINY))
    share = Fraction(decoder.limit + IMAGES, whole.stock)
    budget = Budget("", "prefill", share, relative=True)
    moved = constraint(budget, Prefill(TINY), SPACES["listed"], SAMPLES)
    assert moved.limit == decoder.limit + IMAGES
    masks = [feasible_points(SPACES["listed"], [each]) for each in (decoder, moved)]
    assert np.array_equal(*masks)
    assert 0 < masks[0].sum() < len(masks[0])


def test_a_policy_over_samples_with_images():
    policy = builders.vtw(4, 2)
    decoder = total_cost(Flops(TINY), policy, SAMPLES)
    assert total_cost(Prefill(TINY), policy, SAMPLES) == decoder + IMAGES
    assert total_cost(KVBytes(TINY), policy, SAMPLES) == total_cost(
        KVBytes(TINY), policy, [(s.n_visual, s.n_other) for s in SAMPLES]
    )


def test_images_beyond_int64_do_not_wrap():
    huge = [SampleSize(64, 9, 2**62)] * 4
    whole = limited("100%prefill", Prefill(TINY), samples=huge)
    decoder = limited("100%", Flops(TINY), samples=huge)
    costs = [whole.cost(i) for i in range(len(SPACES["listed"].points))]
    assert costs == [decoder.cost(i) + 2**64 for i in range(len(costs))]


def test_a_budget_below_tower_and_text_says_that_no_policy_keeps_to_it():
    found = limited("5%prefill", Prefill(TINY))
    with pytest.raises(InfeasibleBudgetError) as raised:
        check_budget(SPACES["listed"], [found])
    floor = found.describe(found.floor)
    for part in ("no policy saves", "vision tower", floor, "%prefill"):
        assert part in str(raised.value)
    above = limited(f"{100 * found.floor / found.stock + 0.1:.2f}%prefill", Prefill(TINY))
    assert above.limit >= above.floor


def test_an_amount_above_the_stock_model_names_a_share_that_leaves_something_to_prune():
    few_visual = [SampleSize(16, 20, 5_000_000)]
    with pytest.raises(OpsearchError, match="prunes nothing") as raised:
        limited("1T prefill", Prefill(TINY), samples=few_visual)
    named = re.search(r"\d+%prefill", str(raised.value))[0]
    found = limited(named, Prefill(TINY), samples=few_visual)
    assert 0.3 * found.stock < found.floor < found.limit < found.stock


def test_a_misspelt_cost_of_an_amount_is_answered_with_the_costs():
    with refuses(OpsearchError, "'prefil'", "FLOPs", "prefill", "kv"):
        Budget.parse("9T prefil")


def test_a_space_that_cannot_reach_the_floor_does_not_blame_the_tower():
    kept = SpaceSettings(num_layers=4, ranker=RankerSpec("cls"), keep=frozenset({(0, 2)}))
    space = Operations.from_settings(kept)
    found = limited("100%prefill", Prefill(TINY), space)
    lowest = found.cost(found.cheapest)
    assert lowest > found.floor
    share = Fraction(lowest - 1, found.stock)
    below = constraint(Budget("", "prefill", share, relative=True), Prefill(TINY), space, SAMPLES)
    with pytest.raises(InfeasibleBudgetError) as raised:
        check_budget(space, [below])
    assert "no policy saves" not in str(raised.value)


def test_unknown_images_are_no_images_of_cost_zero():
    for samples in ([(64, 9)], [SampleSize(64, 9, 1), SampleSize(64, 9)]):
        unknown = f"1 of {len(samples)} samples"
        with refuses(OpsearchError, "vision tower", unknown, "--budget 30%"):
            limited("50%prefill", Prefill(TINY), samples=samples)
        assert limited("50%", Flops(TINY), samples=samples).vision is None
    assert image_cost(Flops(TINY), [SampleSize(64, 9)]) == 0


def test_both_shares_are_described():
    decoder, whole = limited("50%", Flops(TINY)), limited("50%prefill", Prefill(TINY))
    spent = decoder.limit
    of_decoder = 100 * spent / decoder.stock
    of_whole = 100 * (spent + IMAGES) / whole.stock
    assert decoder.describe_both(spent).endswith(f", {of_whole:.4g}% with vision")
    assert whole.describe_both(spent + IMAGES).endswith(f", {of_decoder:.4g}% of the decoder")
    other = constraint(Budget.parse("50%kv"), KVBytes(TINY), SPACES["listed"], SAMPLES)
    assert other.describe_both(other.limit) == other.describe(other.limit)


def test_the_budget_of_a_descent_counts_the_images():
    size = SAMPLES[0]
    limit = 0.8
    spent = budget_of_shares([(Prefill(TINY), limit)], 4, size).spent
    stock = Flops(TINY).stock(64, 9) + size.image_flops
    everything, nothing = np.ones((4, 3)), np.zeros((4, 3))
    assert spent(everything) == pytest.approx([1 / limit])
    text = total_cost(Prefill(TINY), builders.vtw(4, 0), [size])
    assert spent(nothing) == pytest.approx([text / (limit * stock)])
