"""Means, spread, nested intervals and certain differences over draws, on values that are known."""

import re

import numpy as np
import pandas as pd
import pytest

from opsearch.analysis import draws
from opsearch.analysis.bootstrap import draw_weights, resamples
from opsearch.analysis.draws import OURS, describe, draw, is_certain, nested_interval, tables
from opsearch.analysis.equal_cost import Comparison, MethodScores
from opsearch.analysis.equal_cost import table as table_of_one
from opsearch.report.drawn import draws_page
from tests.report.page import Page, assert_harmless
from tests.support.messages import naming

FAMILIES = ("a",) * 10 + ("b",) * 20
ONES = np.ones(len(FAMILIES))


def compared(**methods):
    """One draw; the KL of a sample is 1 minus its score."""
    entries = (
        MethodScores("30%", name, f"policy of {name}", 3e11, 0.3, 1 - s[:4], 1 - s, s)
        for name, s in methods.items()
    )
    return Comparison("FLOPs", FAMILIES, ONES, tuple(entries))


def scores(right):
    """Answers of which this many of each 10 in a row are right."""
    return (np.arange(len(FAMILIES)) % 10 < right).astype(float)


@pytest.mark.parametrize("count", [3, 5])
@pytest.mark.parametrize(
    ("between", "items", "both"), [(1, 0, 0), (1, 8, 0), (0.3, 8, 3), (0, 8, 0)]
)
def test_the_interval_covers_the_mean_whatever_varies(count, between, items, both):
    """Values with known standard deviations of draws, of test samples, and of both together."""
    random = np.random.default_rng(count)
    tested, trials, covered = 64, 200, 0
    for trial in range(trials):
        values = random.normal(0, between, (count, 1)) + random.normal(0, items, (1, tested))
        values = values + random.normal(0, both, (count, tested))
        drawn = values @ resamples(tested, trial, 400)
        each = np.hstack([values.mean(axis=1, keepdims=True), drawn])
        low, high = nested_interval(each, trial)
        covered += low <= 0 <= high
    assert 0.88 < covered / trials < 0.995


def test_plain_percentiles_of_few_draws_would_be_too_narrow():
    random = np.random.default_rng(0)
    means = random.normal(size=(300, 5))
    ends = {
        name: np.percentile(means @ weights, [2.5, 97.5], axis=1)
        for name, weights in {"plain": resamples(5), "nested": draw_weights(5)}.items()
    }
    covered = {name: np.mean((low <= 0) & (high >= 0)) for name, (low, high) in ends.items()}
    assert covered["plain"] < 0.87 < covered["nested"]


def test_weights_of_draws_keep_the_mean():
    weights = draw_weights(5, seed=3, count=2000)
    assert weights.sum(axis=0) == pytest.approx(np.ones(2000))
    # The standard error of a mean of five, times Student's quantile over the normal one.
    values = np.array([1.0, 2.0, 4.0, 5.0, 8.0])
    error = values.std(ddof=1) / np.sqrt(5) * 2.776 / 1.960
    assert (values @ weights).std() == pytest.approx(error, rel=0.05)
    assert np.array_equal(weights, draw_weights(5, seed=3, count=2000))


def test_mean_and_spread_over_draws():
    found = tables([compared(opsearch=scores(right)) for right in (6, 7, 9)])
    (row,) = found.methods.itertuples()
    assert (row.draws, row.items) == (3, 30)
    assert row.rel_avg == pytest.approx(220 / 3)
    assert (row.rel_avg_lowest, row.rel_avg_highest) == pytest.approx((60, 90))
    assert row.rel_avg_sd == pytest.approx(np.std([60, 70, 90], ddof=1))
    assert row.kl == pytest.approx(0.8 / 3)
    assert row.rel_avg_low < 60
    assert row.rel_avg_high > 90
    assert found.draws["rel_avg"].tolist() == pytest.approx([60, 70, 90])
    assert not row.rel_avg_certain


def test_a_draw_has_the_figures_of_its_own_comparison():
    random = np.random.default_rng(0)
    every = [compared(x=random.integers(0, 2, 30).astype(float)) for _ in range(2)]
    ones = pd.concat([table_of_one(each) for each in every])
    for name in ("rel_avg", "kl", "share"):
        assert tables(every).draws[name].tolist() == pytest.approx(ones[name].tolist())


def test_methods_that_chose_alike_on_every_draw_have_the_interval_of_one():
    one = compared(x=scores(7))
    (single,), (row,) = table_of_one(one).itertuples(), tables([one] * 5).methods.itertuples()
    assert (row.rel_avg_low, row.rel_avg_high) == pytest.approx((single.low, single.high))
    assert row.rel_avg_sd == 0


def test_equal_seeds_give_equal_tables():
    every = [compared(opsearch=scores(right), x=scores(5)) for right in (6, 7, 9)]
    pd.testing.assert_frame_equal(tables(every, 4).methods, tables(every, 4).methods)
    assert tables(every, 4).methods["kl_low"].iloc[0] != tables(every, 5).methods["kl_low"].iloc[0]


@pytest.mark.parametrize(
    ("each", "low", "high", "certain"),
    [
        ([1, 2], 0.5, 2.5, True),
        ([-1, -2], -2.5, -0.5, True),
        ([1, 2], -0.1, 3, False),  # the interval holds zero
        ([1, 2], 0, 3, False),
        ([-1, 9], 0.5, 7, False),  # a draw has the other sign
        ([0, 9], 0.5, 7, False),  # a draw has none
        ([np.nan, np.nan], np.nan, np.nan, False),
    ],
)
def test_certain_is_what_interval_and_every_draw_say(each, low, high, certain):
    assert is_certain(np.array(each, float), low, high) is certain


def test_differences_are_from_ours_paired_and_certain_where_both_agree():
    ours, worse, mixed = (9, 9, 9), (4, 5, 4), (8, 10, 9)
    every = [
        compared(worse=scores(b), opsearch=scores(a), mixed=scores(c))
        for a, b, c in zip(ours, worse, mixed, strict=True)
    ]
    found = tables(every).methods.set_index("method")
    assert list(found.index) == [OURS, "worse", "mixed"]
    assert found.loc["worse", "rel_avg_difference"] == pytest.approx(-140 / 3)
    assert found.loc["worse", "kl_difference"] == pytest.approx(1.4 / 3)
    assert found["rel_avg_certain"].tolist() == [False, True, False]
    assert found["kl_certain"].tolist() == [False, True, False]
    assert np.isnan(found.loc[OURS, "rel_avg_difference"])
    text = describe(tables(every))
    assert re.search(
        r"\b30% opsearch has 90\.0 %.*certainly worse: 1 of 2.*not certain: mixed", text
    )


def test_a_method_that_a_draw_lacks_is_never_certain():
    every = [compared(opsearch=scores(9), x=scores(1)) for _ in range(3)]
    every.append(compared(opsearch=scores(9)))
    found = tables(every).methods.set_index("method")
    assert found["draws"].to_dict() == {OURS: 4, "x": 3}
    assert found.loc["x", "rel_avg_difference"] == pytest.approx(-80)
    assert not found.loc["x", "rel_avg_certain"]


def test_the_figure_has_a_dot_for_every_draw():
    every = [compared(opsearch=scores(right), x=scores(3)) for right in (6, 7, 9)]
    (axes,) = draw(tables(every)).axes
    assert [text.get_text() for text in axes.get_yticklabels()] == [OURS, "x"]
    dots = [line.get_xdata() for line in axes.lines if line.get_marker() == "o"]
    assert np.array(dots) == pytest.approx(np.array([[60, 70, 90], [30, 30, 30]]))
    means = [line for line in axes.lines if line.get_marker() == "D"]
    assert [line.get_xdata()[0] for line in means] == pytest.approx([220 / 3, 30])


def test_where_the_original_is_never_right_divergences_stand_in():
    every = [compared(opsearch=scores(9), x=scores(2)) for _ in range(2)]
    every = [Comparison("FLOPs", FAMILIES, 0 * ONES, each.entries) for each in every]
    found = tables(every)
    assert found.methods["rel_avg"].isna().all()
    assert re.search(naming("KL", "0.100 nats", "30%"), describe(found))
    assert "nan" not in draws_page("m", found, draw(found), describe(found))


def test_the_page_shows_mean_spread_and_difference():
    every = [compared(opsearch=scores(right), x=scores(3)) for right in (6, 7, 9)]
    found = tables(every)
    page = Page(draws_page("<model>", found, draws.draw(found), describe(found)))
    assert_harmless(page)
    assert page.tags.count("h1") == 1
    assert re.search(r"opsearch 73\.3 \(.* to .*\) 60\.0 to 90\.0, sd 15\.3", page.text)
