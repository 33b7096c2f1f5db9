"""The proxy's grades: laws of regret and rank, known answers, and figures that show the table."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kendalltau, spearmanr

from opsearch.analysis.choice import ladder
from opsearch.analysis.rank import describe, draw, overlap, policies, table
from opsearch.commands.run import run
from opsearch.errors import OpsearchError
from opsearch.runs.config import RunConfig
from opsearch.runs.stored import stored_run
from tests.analysis.made import made
from tests.support.messages import naming

seeds = st.integers(0, 10**6)


def additive_world(seed=0, samples=12):
    """A run whose policies really cost what their parameters cost alone, in sum.

    Means over any of its samples are whole quanta, so that no rounding tells proxy from joint.
    """
    measured = made(samples, seed)
    random = np.random.default_rng(seed)
    terms = []
    for parameter in measured.space.parameters:
        term = random.integers(1, 1000, size=(len(parameter.values), samples)) * samples * 1e-3
        term[-1] = 0
        terms.append(term)
    alone = measured.alone | {"kl": tuple(terms)}
    proxy = replace(measured, alone=alone).proxy()
    return replace(measured, alone=alone, tables=measured.tables | {"kl": proxy})


@settings(max_examples=10)
@given(seeds)
def test_a_proxy_that_equals_the_joint_has_no_regret_and_always_the_same_choice(seed):
    rows = table(additive_world(seed))
    assert (rows["missing"] == 0).all()
    assert (rows["proxy_policy"] == rows["joint_policy"]).all()
    for column in ("regret", "low", "high", "regret_top1", "split_regret", "split_high"):
        assert (rows[column] == 0).all()
    assert (rows["same"] == 1).all()
    assert np.allclose(rows["spearman"].dropna(), 1)
    assert np.allclose(rows["kendall"].dropna(), 1)
    assert (rows["top10"].dropna() == 1).all()


@settings(max_examples=15)
@given(seeds)
def test_the_policy_of_the_proxy_is_never_below_that_of_the_joint(seed):
    rows = table(made(seed=seed))
    assert (rows["regret"] >= 0).all()
    assert np.allclose(rows["regret"], rows["proxy_kl"] - rows["joint_kl"])
    assert (np.diff(rows["joint_kl"]) <= 0).all()
    assert rows["same"].between(0, 1).all()
    assert (rows.loc[rows["proxy_policy"] == rows["joint_policy"], "regret"] == 0).all()


@settings(max_examples=10)
@given(seeds)
def test_rank_statistics_are_those_of_scipy_and_see_order_only(seed):
    measured = made(seed=seed)
    rows, listed = table(measured), policies(measured)
    for row in rows.iloc[[len(rows) // 2, -1]].to_dict("records"):
        pair = listed.iloc[: row["policies"]][["proxy", "joint"]].to_numpy().T
        assert row["spearman"] == pytest.approx(spearmanr(*pair).statistic)
        assert row["kendall"] == pytest.approx(kendalltau(*pair).statistic)
        assert row["spearman_low"] <= row["spearman_high"]
    # One sample whose joint is stretched without a change of order.
    one = made(samples=2, seed=seed, joint=measured.tables["kl"][:, [0, 0]])
    stretched = replace(one, tables=one.tables | {"kl": np.round(one.tables["kl"], 6) ** 3 * 1e6})
    same = ["spearman", "kendall", "top10", "top1pct", "proxy_policy", "joint_policy"]
    pd.testing.assert_frame_equal(table(one)[same], table(stretched)[same])


def test_the_overlap_counts_common_policies_and_takes_ties_in_order():
    proxy = np.array([1.0, 2.0, 3.0, 4.0])
    assert overlap(proxy, proxy, 2) == 1
    assert overlap(proxy, -proxy, 2) == 0
    assert overlap(proxy, np.array([2.0, 0.0, 1.0, 3.0]), 2) == 0.5
    assert overlap(proxy, np.zeros(4), 2) == 1
    assert np.isnan(overlap(proxy, proxy, 4))


def test_a_hand_made_regret():
    """Two samples; the proxy thinks that d_attn 0 costs nothing, the joint knows better."""
    measured = made(samples=2, layers=1, n_v=())
    points = [tuple(point) for point in measured.space.points.tolist()]
    assert points == [(0, 1, 0), (1, 1, 0)]
    kl = np.array([[2.0, 4.0], [0.0, 0.0]])
    top1 = np.array([[0.0, 1.0], [1.0, 1.0]])
    free = tuple(np.zeros_like(term) for term in measured.alone["kl"])
    measured = replace(
        measured,
        tables=measured.tables | {"kl": kl, "top1": top1},
        alone=measured.alone | {"kl": free},
    )
    last = table(measured).iloc[-1]
    # The proxy cannot tell them apart and takes the cheaper.
    assert (last["proxy_policy"], last["joint_policy"]) == (
        "d_attn=0 d_mlp=1 n_v=1",
        "d_attn=1 d_mlp=1 n_v=1",
    )
    assert last["regret"] == 3
    assert (last["low"], last["high"]) == (2, 4)
    assert last["regret_top1"] == 0.5
    assert last["same"] == 0
    assert last["split_regret"] == pytest.approx(3, abs=0.2)
    assert (last["split_low"], last["split_high"]) == (2, 4)
    assert np.isnan(last["spearman"])


def test_on_new_samples_the_joint_may_lose():
    """Noise only: the joint's minimum is luck, which other samples do not repeat."""
    random = np.random.default_rng(0)
    noise = random.exponential(size=made().tables["kl"].shape)
    rows = table(made(joint=noise))
    assert rows["regret"].mean() > 0.3
    assert abs(rows["split_regret"].mean()) < 0.1


def test_budgets_that_were_not_measured_completely_are_named_and_empty():
    measured = made()
    order = ladder(measured)
    kl = measured.tables["kl"].copy()
    kl[order[40], 2] = np.nan
    rows = table(replace(measured, tables=measured.tables | {"kl": kl}))
    complete = table(measured)
    empty = rows["missing"] > 0
    assert (rows["policies"] > 40).tolist() == empty.tolist()
    values = rows.columns.drop(["budget", "samples", "policies", "missing"])
    assert rows.loc[empty, values].isna().all(axis=None)
    # Where all was measured nothing changes.
    pd.testing.assert_frame_equal(rows[~empty], complete[~empty])
    first = rows.loc[empty, "budget"].iloc[0]
    assert re.search(rf" {first} to 100 %", describe(rows))
    assert not re.search(r" \d+ to 100 %", describe(complete))
    kl[order[0], 0] = np.nan
    with pytest.raises(OpsearchError, match=naming("made", "--objective joint")):
        table(replace(measured, tables=measured.tables | {"kl": kl}))


def test_the_same_seed_gives_the_same_table():
    pd.testing.assert_frame_equal(table(made(), seed=2), table(made(), seed=2))
    one, other = table(made(), seed=2), table(made(), seed=3)
    pd.testing.assert_frame_equal(one[["regret", "spearman"]], other[["regret", "spearman"]])
    assert not one["low"].equals(other["low"])


def test_the_figure_is_the_table():
    listed, rows = policies(made()), table(made())
    scatter, regrets, bar = draw(listed, rows).axes
    dots = scatter.collections[0]
    assert np.array_equal(dots.get_offsets(), listed[["proxy", "joint"]])
    assert np.array_equal(dots.get_array(), 100 * listed["share"])
    marks = {line.get_label(): line for line in scatter.lines}
    at = listed.set_index("policy")
    marked = rows[rows["budget"].isin([15, 20, 30, 50])]
    for chooser in ("joint", "proxy"):
        (line,) = (line for label, line in marks.items() if chooser in label)
        chosen = at.loc[marked[f"{chooser}_policy"]]
        assert np.array_equal(line.get_xydata(), chosen[["proxy", "joint"]])
    assert [text.get_text() for text in scatter.texts] == [f"{b} %" for b in marked["budget"]]
    drawn = [line.get_ydata().tolist() for line in regrets.lines[:6]]
    columns = ["low", "high", "regret", "split_low", "split_high", "split_regret"]
    assert drawn == [rows[column].tolist() for column in columns]
    assert re.search(naming("%", "FLOPs"), bar.get_ylabel())


def test_the_words_have_the_numbers_of_the_table():
    rows = table(made())
    text = describe(rows)
    last = rows.iloc[-1]
    assert re.match(rf"[^.]*\b{last['policies']} policies\b[^.]*\b100 %", text)
    assert f"Spearman {last['spearman']:.3f}" in text
    worst = rows.loc[rows["regret"].idxmax()]
    assert re.search(
        rf" {worst['regret']:.3f} [^.]*\b{worst['budget']} % \({worst['low']:.3f} ", text
    )
    assert f"{rows['split_regret'].mean():+.3f} nats" in text
    (at_50,) = rows.loc[rows["budget"] == 50, "regret"]
    assert re.search(rf"\b50 % [^.]* {at_50:.3f} nats", text)


def test_a_handful_of_policies_gets_no_rank_statistics_in_words():
    measured = made(samples=4, layers=1, n_v=())
    assert "Spearman" not in describe(table(measured))
    assert "nan" not in describe(table(measured))


def test_a_real_run_is_graded(tmp_path):
    config = {"samples": 5, "heldout": 0, "budget": ("15%",), "n_v": ("1/4", "1/2", "1")}
    run(RunConfig(**config, objective="joint", complete=True, out=tmp_path / "run"))
    measured = stored_run(tmp_path / "run")
    rows = table(measured)
    known = rows[rows["missing"] == 0]
    assert known["budget"].iloc[-1] == 15
    assert rows["budget"].iloc[-1] > 90
    assert (known["regret"] >= 0).all()
    draw(policies(measured), rows).savefig(tmp_path / "rank.svg")
