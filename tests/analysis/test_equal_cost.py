"""Rel. Avg., its intervals and paired differences, on scores whose answer is known."""

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsearch.analysis.equal_cost import (
    Comparison,
    MethodScores,
    describe,
    differences,
    draw,
    table,
)

FAMILIES = ("a", "a", "a", "a", "b", "b", "c", "c")
ONES = np.ones(len(FAMILIES))


def entry(method, scores, budget="30%", share=0.3, kl=None):
    kl = np.zeros(len(scores)) if kl is None else np.asarray(kl, float)
    return MethodScores(budget, method, f"policy of {method}", share * 1e12, share, kl, kl, scores)


def comparison(*entries, original=ONES, families=FAMILIES):
    return Comparison("FLOPs", families, original, entries)


def test_rel_avg_is_the_mean_over_families_of_the_ratio():
    original = np.array([1, 1, 1, 0, 1, 1, 1, 0.0])
    scores = np.array([1, 0, 0, 0, 1, 1, 0, 0.0])
    (row,) = table(comparison(entry("x", scores), original=original)).itertuples()
    assert row.rel_avg == pytest.approx(100 * (1 / 3 + 1 + 0) / 3)
    assert row.accuracy == pytest.approx((1 / 4 + 1 + 0) / 3)
    assert (row.items, row.cost, row.share) == (8, 0.3e12, 0.3)
    assert row.low <= row.rel_avg <= row.high


def test_a_family_that_the_original_cannot_answer_is_left_out():
    original = np.array([1, 1, 1, 1, 0, 0, 1, 1.0])
    scores = np.array([1, 1, 0, 0, 1, 1, 1, 1.0])
    (row,) = table(comparison(entry("x", scores), original=original)).itertuples()
    assert row.rel_avg == pytest.approx(75)


def test_answers_like_the_original_leave_no_interval():
    random = np.random.default_rng(0)
    original = random.integers(0, 2, 8).astype(float)
    original[[0, 4, 6]] = 1
    (row,) = table(comparison(entry("x", original), original=original)).itertuples()
    assert (row.rel_avg, row.low, row.high) == (100, 100, 100)


def test_the_interval_shrinks_with_more_items():
    random = np.random.default_rng(1)

    def width(copies):
        families = FAMILIES * copies
        scores = random.integers(0, 2, len(families)).astype(float)
        one = comparison(entry("x", scores), original=np.ones(len(families)), families=families)
        (row,) = table(one).itertuples()
        return row.high - row.low

    assert width(100) < width(10) < width(2)


def test_differences_are_paired():
    scores = np.array([1, 0, 1, 0, 1, 0, 1, 0.0])
    kl = np.arange(8.0)
    pair = comparison(entry("x", scores, kl=kl), entry("y", scores, kl=kl + 0.25))
    (row,) = differences(pair, "x", "y").itertuples()
    assert (row.rel_avg, row.rel_avg_low, row.rel_avg_high) == (0, 0, 0)
    assert (row.kl, row.kl_low, row.kl_high) == pytest.approx((-0.25, -0.25, -0.25))


def test_a_difference_needs_both_methods_at_a_budget():
    pair = comparison(entry("x", ONES), entry("y", ONES, budget="20%"))
    assert differences(pair, "x", "y").empty
    assert differences(pair, "x", "z").empty


@given(st.lists(st.booleans(), min_size=8, max_size=8), st.integers(0, 5))
def test_a_difference_is_the_difference_of_the_table(answers, seed):
    scores = np.array(answers, float)
    pair = comparison(entry("x", scores), entry("y", ONES))
    both = table(pair, seed).set_index("method")["rel_avg"]
    (row,) = differences(pair, "x", "y", seed).itertuples()
    assert row.rel_avg == pytest.approx(both["x"] - both["y"])
    assert row.rel_avg_low <= row.rel_avg <= row.rel_avg_high
    pd.testing.assert_frame_equal(table(pair, seed), table(pair, seed))


def test_the_figure_shows_the_table():
    half = np.array([1, 0, 1, 0, 1, 0, 1, 0.0])
    frame = table(
        comparison(
            entry("dop joint", ONES, "50%", 0.49),
            entry("VTW", half, "50%", 0.48),
            entry("dop joint", half, "30%", 0.29),
        )
    )
    (axes,) = draw({"one": frame}, "FLOPs").axes
    assert axes.get_legend_handles_labels()[1] == ["dop joint", "VTW"]
    line = axes.containers[0].lines[0]
    assert line.get_xdata() == pytest.approx([29, 49])
    assert line.get_ydata() == pytest.approx([50, 100])
    assert re.match(r"FLOPs\b.*%", axes.get_xlabel())


def test_several_runs_are_rows_of_panels_and_every_known_cost_a_column():
    entries = entry("dop joint", ONES, "50%", 0.49), entry("VTW", ONES, "50%", 0.48)
    frame = table(comparison(*entries)).assign(kv_bytes=[2e6, 3e6])
    timed = frame.assign(prefill_ms=[12.0, np.nan])
    every = draw({"a": frame, "b": timed}, "FLOPs").axes
    shown = [axes for axes in every if axes.get_visible()]
    costs = ["FLOPs", "KV", "FLOPs", "KV", "prefill"]
    assert [re.split(r"\W", axes.get_xlabel())[0] for axes in shown] == costs
    assert [axes.get_title() for axes in shown] == ["a", "a", "b", "b", "b"]
    kv, times = shown[1], shown[-1]
    assert [c.lines[0].get_xdata().tolist() for c in kv.containers] == [[2], [3]]
    assert [c.lines[0].get_xdata().tolist() for c in times.containers] == [[12], []]


def test_the_words_name_the_best_and_who_is_equal():
    half, most = np.array([[1, 0, 1, 0, 1, 0, 1, 0.0], [1, 1, 1, 1, 1, 1, 1, 0.0]])
    frame = table(comparison(entry("VTW", most), entry("dop joint", half), entry("dop", most)))
    low, high = frame.low[0], frame.high[0]
    assert 50 < low < frame.rel_avg[0] < high == 100
    interval = rf"{frame.rel_avg[0]:.1f} % \({low:.1f} to {high:.1f}\)"
    given = r"Rel\. Avg\. .*\b8\b.*\b95 %.*\b30%"
    assert re.match(rf"{given}.*\bVTW\b.* {interval}.*\bdop\b", describe(frame))
    assert "dop joint" not in describe(frame)


def test_a_draw_that_says_nothing_does_not_spoil_the_interval():
    """The original is right on 5 of 300 items: some draws hold none of them."""
    original = np.zeros(300)
    original[:5] = 1
    scores = original.copy()
    scores[0] = 0
    one = comparison(entry("x", scores), original=original, families=("all",) * 300)
    (row,) = table(one).itertuples()
    assert row.rel_avg == pytest.approx(80)
    assert 0 <= row.low < 80 < row.high <= 100


def test_families_of_one_item_have_an_interval():
    families = tuple("abcdefgh")
    scores = np.array([1, 1, 0, 1, 1, 1, 0, 1.0])
    (row,) = table(comparison(entry("x", scores), families=families)).itertuples()
    assert row.low < row.rel_avg == 75 < row.high


def nothing_right(families=FAMILIES):
    """Two methods where the original has no answer right, and one of them has."""
    zeros, some = np.zeros(len(families)), np.eye(len(families))[0]
    entries = (
        entry("dop joint", zeros, kl=np.full(len(families), 0.25)),
        entry("VTW", some, kl=np.full(len(families), 0.5)),
    )
    return comparison(*entries, original=zeros, families=families)


@pytest.mark.parametrize("families", [FAMILIES, tuple("abcdefgh")])
def test_where_the_original_is_never_right_divergences_stand_in(families):
    frame = table(nothing_right(families))
    assert frame[["rel_avg", "low", "high"]].isna().all(axis=None)
    assert frame["kl"].tolist() == [0.25, 0.5]
    assert re.search(r"\b8\b.*\bRel\. Avg\..*\b30%.*\bdop joint\b.*\b0\.250 nats", describe(frame))
    assert "VTW" not in describe(frame)
    (axes,) = draw({"one": frame}, "FLOPs").axes
    assert re.match(r"KL\b.*\bnats\b", axes.get_ylabel())
    assert [container.lines[0].get_ydata() for container in axes.containers] == [[0.25], [0.5]]
    (gap,) = differences(nothing_right(families), "dop joint", "VTW").itertuples()
    assert (gap.kl, gap.kl_low, gap.kl_high) == (-0.25, -0.25, -0.25)
    assert np.isnan([gap.rel_avg, gap.rel_avg_low, gap.rel_avg_high]).all()
