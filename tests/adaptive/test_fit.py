"""Selectors keep within their mean cost, and tell questions apart where they can be."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from opsearch.adaptive.choose import choose_set
from opsearch.adaptive.fit import fit_selector
from opsearch.adaptive.table import Table, best_choice
from opsearch.errors import InfeasibleBudgetError
from tests.support.messages import refuses

COSTS = np.array([0.1, 0.3, 0.6, 1.0])


def a_table(samples=200, separable=True, seed=0):
    """Two kinds of questions: the first loses nothing with the cheapest policy, the second much."""
    draw = np.random.default_rng(seed)
    hard = draw.random(samples) < 0.5
    features = draw.standard_normal((samples, 6)).astype(np.float32)
    if separable:
        features[:, 2] += 6 * hard
    loss = np.where(hard[:, None], [0.9, 0.6, 0.2, 0.0], [0.05, 0.02, 0.01, 0.0])
    loss = loss * draw.uniform(0.8, 1.2, (samples, 1))
    cost = COSTS * draw.uniform(0.9, 1.1, (samples, 1))
    return Table(features, loss, cost), hard


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(2, 5), st.integers(3, 40), st.floats(0, 1))
def test_the_mean_cost_is_within_every_limit_that_a_policy_keeps(seed, policies, samples, part):
    draw = np.random.default_rng(seed)
    features = draw.standard_normal((samples, 4)).astype(np.float32)
    cost = draw.uniform(0.05, 1, (samples, policies))
    table = Table(features, draw.uniform(0, 1, cost.shape), cost)
    means = cost.mean(axis=0)
    limit = means.min() + part * (means.max() - means.min())
    chosen = fit_selector(table, limit).selector.scores(features).argmax(axis=1)
    assert table.of(chosen).cost <= limit


def test_a_selector_gives_hard_questions_more():
    table, hard = a_table()
    chosen = fit_selector(table, 0.5).selector.scores(table.features).argmax(axis=1)
    assert COSTS[chosen[hard]].mean() > COSTS[chosen[~hard]].mean() + 0.3
    # A policy of half the cost for all loses more.
    single = table.of(np.full(len(chosen), 1))
    assert table.of(chosen).loss < 0.6 * single.loss


def test_without_a_limit_every_question_gets_the_best_policy():
    table, _ = a_table(separable=False)
    found = fit_selector(table, 2.0)
    assert found.price == 0
    assert (found.selector.scores(table.features).argmax(axis=1) == 3).all()


def test_scores_are_those_of_standardized_features():
    """Units of features do not matter."""
    table, _ = a_table()
    scaled = Table(table.features * np.float32(100) + 7, table.loss, table.cost)
    one, other = fit_selector(table, 0.5), fit_selector(scaled, 0.5)
    found = [fit.selector.scores(each.features) for fit, each in ((one, table), (other, scaled))]
    np.testing.assert_allclose(found[0], found[1], atol=2e-3)


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(2, 4), st.floats(0, 1))
def test_no_choice_of_this_cost_loses_less_and_none_passes_the_bound(seed, rows, policies, part):
    draw = np.random.default_rng(seed)
    loss, cost = draw.uniform(0, 1, (2, rows, policies))
    limit = cost.min(1).sum() + part * (cost.max(1).sum() - cost.min(1).sum())
    chosen, bound = best_choice(loss, cost, limit)
    at = np.arange(rows)
    spent, lost = cost[at, chosen].sum(), loss[at, chosen].sum()
    assert spent <= limit + 1e-9
    for other in np.ndindex(*(policies,) * rows):
        if cost[at, other].sum() <= spent + 1e-12:
            assert lost <= loss[at, other].sum() + 1e-9
        if cost[at, other].sum() <= limit:
            assert bound <= loss[at, other].sum() + 1e-9


def test_a_set_has_the_policies_that_help():
    table, _ = a_table(400)
    found = choose_set(table, 0.4, 2)
    assert found.helps
    assert len(found.policies) == 2
    assert 0 in found.policies, "easy questions need no more"
    chosen = found.chosen(table)
    assert set(chosen.tolist()) <= set(found.policies)
    outcome = table.of(chosen)
    assert outcome.cost <= 0.4
    assert outcome.loss < table.loss[:, 1].mean()


def test_questions_that_cannot_be_told_apart_get_one_policy():
    table, _ = a_table(400, separable=False)
    found = choose_set(table, 0.305, 4)
    assert not found.helps
    assert found.policies == (1,)
    assert (found.chosen(table) == 1).all()


def test_the_one_policy_is_the_best_within_the_limit():
    table, _ = a_table(40, separable=False)
    worse = Table(
        table.features,
        np.hstack([table.loss, table.loss[:, 1:2] + 0.1]),
        np.hstack([table.cost, table.cost[:, 1:2]]),
    )
    assert choose_set(worse, 0.305, 4).policies == (1,)


def test_a_limit_below_every_policy_is_refused():
    table, _ = a_table()
    with refuses(InfeasibleBudgetError, "5%", "larger"):
        choose_set(table, 0.05, 4)


def test_of_many_policies_those_that_are_missed_least_are_left_out():
    """Twelve policies, of which nine are worse than another one of the same cost."""
    table, _ = a_table(120)
    worse = [table.loss + 0.2 * (number + 1) for number in range(3)]
    many = Table(
        table.features, np.hstack([table.loss, *worse]), np.hstack([table.cost] * (1 + len(worse)))
    )
    few, all_of_them = choose_set(table, 0.4, 3), choose_set(many, 0.4, 3)
    assert all_of_them.policies == few.policies
    assert many.of(all_of_them.chosen(many)) == table.of(few.chosen(table))
