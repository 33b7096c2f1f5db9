"""Ablations judge choices on samples they were not made on, and runs on what they share."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsearch.analysis.ablation import COLUMNS, DRAWS, describe, draw, table
from opsearch.analysis.choice import choose, draws, joint, ladder, within
from opsearch.commands.run import run
from opsearch.errors import OpsearchError
from opsearch.runs.config import RunConfig
from opsearch.runs.stored import stored_run
from tests.analysis.made import made
from tests.support.messages import naming


def another(measured, scale=2.0, **changes):
    """A run like `measured` with other settings and divergences `scale` times as large."""
    return replace(
        measured,
        label="another",
        settings=measured.settings | changes,
        tables=measured.tables | {"kl": measured.tables["kl"] * scale},
        alone=measured.alone | {"kl": tuple(term * scale for term in measured.alone["kl"])},
    )


def part(rows, factor, objective):
    return rows[(rows["factor"] == factor) & (rows["objective"] == objective)]


def test_one_run_has_three_factors_with_the_levels_its_samples_allow():
    rows = table([made(samples=24)])
    assert rows.columns.tolist() == COLUMNS
    levels = {
        (factor, objective): of["level"].unique().tolist()
        for (factor, objective), of in rows.groupby(["factor", "objective"])
    }
    assert levels == {
        # 20 of 24 would leave less than a quarter to judge on.
        ("calibration samples", "additive"): ["5", "10"],
        ("calibration samples", "joint"): ["5", "10"],
        ("divergence", "additive"): ["kl", "reverse_kl", "js"],
        ("divergence", "joint"): ["kl", "reverse_kl", "js"],
        ("interpolation points", "additive"): ["3", "4", "5", "7", "9", "all"],
    }
    assert (rows["draws"] == DRAWS).all()
    # The cheapest policy costs a quarter of the stock model.
    assert rows["budget"].unique().tolist() == [30, 50]
    assert ((rows["low"] <= rows["kl"]) & (rows["kl"] <= rows["high"])).all()
    assert rows[["difference", "difference_low"]].isna().all(axis=None)


@settings(max_examples=5)
@given(st.integers(0, 1000))
def test_a_choice_is_judged_on_the_samples_it_has_not_seen(seed):
    measured = made(samples=20, seed=seed)
    order = ladder(measured)
    size = within(measured, order, np.array([50]))
    drawn, rest = draws(20, 5, DRAWS, seed)
    picks = choose(joint(measured, order, drawn), size)[0]
    kl = measured.tables["kl"][order]
    unseen = [kl[pick, rest[:, w] > 0].mean() for w, pick in enumerate(picks)]
    rows = part(table([measured], seed), "calibration samples", "joint")
    row = rows[(rows["level"] == "5") & (rows["budget"] == 50)].iloc[0]
    assert row["kl"] == pytest.approx(np.mean(unseen))
    assert row["low"] == pytest.approx(np.percentile(unseen, 2.5))


def test_scaled_divergences_choose_the_same():
    rows = table([made(samples=20)])
    for objective in ("additive", "joint"):
        # reverse_kl and js are multiples of kl in these tables, up to the rounding of solvers.
        kl = part(rows, "divergence", objective).groupby("level")["kl"].mean()
        assert np.allclose(kl, kl["kl"], rtol=1e-3)
    points = part(rows, "interpolation points", "additive").set_index("level")
    # Every parameter has at most 5 values, so 5 points and more are all.
    assert np.allclose(points.loc["5", "kl"], points.loc["all", "kl"])
    assert not np.allclose(points.loc["3", "kl"], points.loc["all", "kl"])


def test_runs_over_the_same_items_are_compared_in_pairs():
    base = made(samples=20)
    rows = table([base, another(base, ranker="random")])
    ranker = rows[rows["factor"] == "ranker"]
    assert ranker["level"].unique().tolist() == ["cls", "random"]
    assert (ranker["draws"] == 1).all()
    first, second = (ranker[ranker["level"] == level] for level in ("cls", "random"))
    assert (first[["difference", "difference_low", "difference_high"]] == 0).all(axis=None)
    assert np.allclose(second["kl"], 2 * first["kl"].to_numpy())
    assert np.allclose(second["difference"], first["kl"].to_numpy())
    assert (second["difference_low"] > 0).all()


def test_runs_over_other_items_are_not_paired():
    base = made(samples=20)
    other = replace(another(base, seed="1"), items=tuple(f"new {i}" for i in range(20)))
    rows = table([base, other])
    levels = rows[rows["factor"] == "seed"]["level"].unique().tolist()
    assert levels == ["None", "1"]
    of_other = rows[(rows["factor"] == "seed") & (rows["level"] == "1")]
    assert of_other["difference"].isna().all()
    assert of_other["kl"].notna().all()


def test_a_factor_is_all_that_differs_and_lists_the_first_run_once():
    base = made(samples=20)
    runs = [
        base,
        another(base, ranker="random"),
        another(base, ranker="uniform"),
        another(base, kv="stays", space="depth", out="elsewhere"),
    ]
    rows = table(runs)
    levels = rows.groupby("factor", sort=False)["level"].unique()
    assert levels["ranker"].tolist() == ["cls", "random", "uniform"]
    assert levels["space + kv"].tolist() == ["dop + leaves", "depth + stays"]
    assert not rows.duplicated(["factor", "level", "objective", "budget"]).any()


def test_runs_that_do_not_differ_are_refused():
    base = made(samples=20)
    with pytest.raises(OpsearchError, match=naming("another", "made")):
        table([base, another(base, out="elsewhere")])


def test_only_budgets_that_all_runs_measured_completely_take_part():
    base = made(samples=20)
    order = ladder(base)

    def known_below(row):
        kl = base.tables["kl"].copy()
        kl[order[row], 0] = np.nan
        return replace(another(base, ranker="random"), tables=base.tables | {"kl": kl})

    beyond_40 = known_below(within(base, order, np.array([40]))[0])
    rows = table([base, beyond_40])
    assert rows["budget"].unique().tolist() == [30]
    assert rows["kl"].notna().all()
    with pytest.raises(
        OpsearchError, match=naming("15, 20, 30, 50 %", "made, another", "--objective joint")
    ):
        table([base, known_below(0)])


def test_the_same_seed_gives_the_same_table():
    measured = made(samples=20)
    pd.testing.assert_frame_equal(table([measured], 1), table([measured], 1))
    assert not table([measured], 1).equals(table([measured], 2))


def test_the_lines_are_the_table():
    base = made(samples=20)
    rows = table([base, another(base, ranker="random")])
    figure = draw(rows)
    factors = rows["factor"].unique()
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == factors.tolist()
    for axes, factor in zip(shown, factors, strict=True):
        levels = rows[rows["factor"] == factor]["level"].unique().tolist()
        assert [label.get_text() for label in axes.get_xticklabels()] == levels
        for line in axes.lines:
            budget, objective = line.get_label().split(" %, ")
            of_line = part(rows, factor, objective)
            of_line = of_line[of_line["budget"] == int(budget)]
            assert line.get_ydata().tolist() == of_line["kl"].tolist()
            places = np.rint(line.get_xdata()).astype(int)
            assert [levels[place] for place in places] == of_line["level"].tolist()
        bars = [bar for bars in axes.collections for bar in bars.get_segments()]
        ends = sorted(bar[:, 1].tolist() for bar in bars)
        of_factor = rows[rows["factor"] == factor]
        assert ends == sorted(of_factor[["low", "high"]].to_numpy().tolist())
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["30 %, additive", "30 %, joint", "50 %, additive", "50 %, joint"]


def test_the_words_have_the_numbers_of_the_table():
    base = made(samples=20)
    rows = table([base, another(base, ranker="random")])
    text = describe(rows)
    assert re.search(r"\bKL\b.*\b30 %.*\bFLOPs\b", text)
    printed = rows[(rows["budget"] == 30) & (rows["factor"] == "ranker")]
    for row in printed.to_dict("records"):
        assert f"{row['level']} {row['kl']:.3f} ({row['low']:.3f} to {row['high']:.3f})" in text
    assert f" {printed['difference'].iloc[-1]:+.3f} (" in text
    assert re.search(r"\b2 budgets\b.*\bjoint\b.*\b\d .*\b5, .*\b10\b", text)


def test_a_real_run_has_an_ablation(tmp_path):
    config = {"samples": 6, "heldout": 0, "budget": ("15%",), "n_v": ("1/2", "1")}
    run(RunConfig(**config, objective="joint", complete=True, out=tmp_path / "run"))
    rows = table([stored_run(tmp_path / "run")])
    assert rows["budget"].unique().tolist() == [15]
    assert rows["kl"].between(0, 20).all()
    draw(rows).savefig(tmp_path / "ablation.svg")
