"""Loss of transferred policies: with known optima, on random tables, and between equal runs."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from opsearch.analysis.measured import ALL
from opsearch.analysis.transfer import FEWEST, describe, draw, table
from opsearch.errors import OpsearchError
from tests.analysis.made import made
from tests.support.messages import naming

AWAY, HOME = 1.625, 0.25


def opposed(samples=12):
    """Two families, each with a cheap policy of its own that suits the other badly."""
    run = made(samples)
    cheaper = replace(run.flops, costs=run.flops.costs // 2)
    run = replace(run, flops=cheaper, families=tuple("ab"[i % 2] for i in range(samples)))
    cheap = np.argsort(run.flops.costs, kind="stable")[:2]
    kl = np.full((len(run.space.points), samples), 9.0)
    kl[cheap[0]] = np.where(np.arange(samples) % 2, AWAY, HOME)
    kl[cheap[1]] = np.where(np.arange(samples) % 2, HOME, AWAY)
    return replace(run, tables={**run.tables, "kl": kl, "top1": (kl == HOME).astype(float)})


def at(rows, source, target, budget=30, by="joint"):
    mask = (rows["source"] == source) & (rows["target"] == target) & (rows["budget"] == budget)
    return rows[mask & (rows["by"] == by)].iloc[0]


def test_the_loss_is_what_the_other_optimum_costs():
    rows = table([opposed()])
    assert set(rows["source"]) == set(rows["target"]) == {"a", "b", ALL}
    for source, target in ("ab", "ba"):
        row = at(rows, source, target)
        assert (row.kl, row.own_kl, row.loss) == (AWAY, HOME, AWAY - HOME)
        assert (row.low, row.high) == pytest.approx((AWAY - HOME,) * 2)
        assert (row.split_loss, row.split_low, row.split_high) == pytest.approx((AWAY - HOME,) * 3)
        assert (row.split_top1, row.samples) == (1, 6)
        assert row.policy == at(rows, source, source).own != row.own


def test_no_policy_loses_at_home_and_none_gains_on_the_samples_that_chose():
    rows = table([made(samples=24, seed=3)])
    home = rows[(rows["source"] == rows["target"]) & (rows["by"] == "joint")]
    assert (home[["loss", "low", "high", "split_loss", "split_top1"]] == 0).all(axis=None)
    assert (rows["loss"] >= 0).all()
    assert (rows["loss"] > 0).any()


def test_choices_are_the_lowest_means_within_the_budget():
    run = made(samples=24, seed=5)
    rows = table([run])
    words = np.array(run.families) == "word"
    counts = np.array(run.families) == "count"
    for budget in rows["budget"].unique():
        fits = run.flops.costs <= budget * run.flops.stock // 100
        kl = np.where(fits[:, None], run.tables["kl"], np.inf)
        chosen = kl[:, words].mean(axis=1).argmin()
        row = at(rows, "word", "count", budget)
        assert row.kl == pytest.approx(kl[chosen, counts].mean())
        assert row.own_kl == pytest.approx(kl[:, counts].mean(axis=1).min())


def test_what_judges_has_no_part_in_the_choice():
    """Each sample loves a policy of its own: chosen by the others, it is never the right one."""
    run = opposed(samples=8)
    cheap = np.argsort(run.flops.costs, kind="stable")[:8]
    kl = np.full(run.tables["kl"].shape, 9.0)
    kl[cheap] = 1 - np.eye(8)
    rows = table([replace(run, tables={**run.tables, "kl": kl})])
    measured, split = at(rows, "a", "b"), at(rows, "b", "b")
    assert measured.loss == pytest.approx(1 / 4)  # a's choice suits no sample of b, b's own suits 1
    assert measured.split_loss == 0  # on samples that did not choose, neither suits any
    assert split.split_loss == 0


def test_a_copy_of_a_run_loses_nothing():
    run = made(samples=12)
    rows = table([run, replace(run)])
    assert len(rows) == 2 * 4 * rows["budget"].nunique()
    assert set(rows["source"]) == {"made (1)", "made (2)"}
    assert (rows.loc[rows["by"] == "joint", ["loss", "split_loss"]] == 0).all(axis=None)
    proxy = rows[rows["by"] == "additive"].groupby(["budget", "target"])
    assert (proxy[["loss", "split_loss"]].nunique() == 1).all(axis=None)  # a sibling's is as good


def test_individual_divergences_choose_the_lowest_sum_within_the_budget():
    one, two = (replace(made(24, seed), label=str(seed)) for seed in (1, 2))
    rows = table([one, two])
    for budget in rows["budget"].unique():
        fits = one.flops.costs <= budget * one.flops.stock // 100
        chosen = np.where(fits, one.proxy().mean(axis=1), np.inf).argmin()
        row = at(rows, "1", "2", budget, by="additive")
        assert row.policy == at(rows, "1", "1", budget, by="additive").policy
        assert row.kl == pytest.approx(two.tables["kl"][chosen].mean())
        assert row.own == at(rows, "2", "2", budget).policy


def test_runs_are_judged_each_on_its_own_samples():
    rows = table([replace(made(seed=1), label="one"), replace(made(seed=2), label="two")])
    assert at(rows, "one", "two").own == at(rows, "two", "two").policy
    assert at(rows, "one", "two").policy == at(rows, "one", "one").own
    text = describe(rows)
    # A loss at each budget, none of all families together; the largest; two by the proxy.
    assert text.count(" nats (") == rows["budget"].nunique() + 1 + 2
    assert re.search(r"\badditive\b", text)


def test_what_cannot_be_compared_is_refused():
    alone = made(families=("all",) * 12)
    with pytest.raises(OpsearchError, match=naming("0 families", FEWEST, "--samples")):
        table([alone])
    with pytest.raises(OpsearchError, match=r"\b5 .*\bd_attn\b.*\bmade dop \(4 .*--space\b"):
        table([made(layers=3), made()])
    partial = made()
    joint = partial.tables["kl"].copy()
    joint[:, 0] = np.nan
    with pytest.raises(
        OpsearchError, match=naming("15, 20, 30, 50 %", "made", "--objective joint")
    ):
        table([replace(partial, tables={**partial.tables, "kl": joint})])


def test_the_same_seed_gives_the_same_table():
    pd.testing.assert_frame_equal(table([made()], seed=2), table([made()], seed=2))
    assert not table([made()], seed=2).equals(table([made()], seed=3))


def test_the_figure_shows_the_table_and_the_words_name_the_worst_pair():
    rows = table([opposed()])
    matrix, losses, *_ = draw(rows).axes
    assert [t.get_text() for t in matrix.get_yticklabels()] == ["a", "b", ALL]
    assert {t.get_text() for t in matrix.texts} == {"0.0", f"{AWAY - HOME:.1f}"}
    dots = losses.lines[1]
    assert dots.get_ydata().max() == pytest.approx(AWAY - HOME)
    assert " 1.38 nats (1.38 to 1.38)" in describe(rows)
    assert "(100.0 points " in describe(rows)


def test_a_mean_outside_its_interval_is_drawn():
    """A few halves of a large loss: the middle 95 % are 0, and the mean is above."""
    rows = table([opposed()])
    away = rows["source"] != rows["target"]
    rows.loc[away, ["split_low", "split_high"]] = 0.0
    losses = draw(rows).axes[1]
    (bars,) = (container.lines[2][0] for container in losses.containers)
    ends = [segment[:, 1] for segment in bars.get_segments()]
    assert max(high for _, high in ends) == pytest.approx(AWAY - HOME)
    assert {low for low, _ in ends} == {0}
