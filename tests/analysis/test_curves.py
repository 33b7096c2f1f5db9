"""Curves are means of what was measured; their words and lines say what the table says."""

import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from opsearch.analysis.curves import FREE, describe, draw, free_from, table
from opsearch.analysis.measured import ALL
from opsearch.commands.run import run
from opsearch.errors import OpsearchError
from opsearch.runs.config import RunConfig
from opsearch.runs.stored import stored_run
from tests.analysis.made import made
from tests.support.messages import naming


def curve_of(rows, parameter, family=ALL):
    return rows[(rows["parameter"] == parameter) & (rows["family"] == family)]


def test_every_parameter_value_and_family_has_its_mean():
    measured = made()
    rows = table(measured)
    assert len(rows) == (5 + 5 + 4) * (1 + 3)
    for parameter, kl in zip(measured.space.parameters, measured.alone["kl"], strict=True):
        mean = curve_of(rows, parameter.name)
        assert mean["value"].tolist() == [float(v) for v in parameter.values]
        assert mean["share"].iloc[-1] == 1
        assert np.allclose(mean["kl"], kl.mean(axis=1))
        assert (mean["samples"] == 12).all()
        words = curve_of(rows, parameter.name, "word")
        assert np.allclose(words["kl"], kl[:, 1::3].mean(axis=1))
        assert (words["samples"] == 4).all()


def test_only_the_mean_over_all_has_an_interval_around_it():
    rows = table(made())
    mean, families = rows[rows["family"] == ALL], rows[rows["family"] != ALL]
    assert ((mean["low"] <= mean["kl"]) & (mean["kl"] <= mean["high"])).all()
    assert (mean["low"] < mean["high"]).any()
    assert families[["low", "high"]].isna().all(axis=None)


def test_a_sample_that_misses_a_value_leaves_the_curve_of_that_parameter_only():
    measured = made()
    kl = [term.copy() for term in measured.alone["kl"]]
    kl[1][2, 0] = np.nan
    rows = table(replace(measured, alone={"kl": tuple(kl)}))
    assert rows["kl"].notna().all()
    assert set(curve_of(rows, "d_mlp")["samples"]) == {11}
    assert set(curve_of(rows, "d_mlp", "count")["samples"]) == {3}
    assert np.allclose(curve_of(rows, "d_mlp")["kl"], kl[1][:, 1:].mean(axis=1))
    assert set(curve_of(rows, "d_attn")["samples"]) == {12}
    kl[1][2] = np.nan
    with pytest.raises(OpsearchError, match=naming("made", "d_mlp")):
        table(replace(measured, alone={"kl": tuple(kl)}))


def test_the_same_seed_gives_the_same_intervals():
    pd.testing.assert_frame_equal(table(made(), seed=3), table(made(), seed=3))
    assert not table(made(), seed=3).equals(table(made(), seed=4))


@pytest.mark.parametrize(
    ("kl", "value"),
    [([1, 0, 0], 1), ([0, 0, 0], 0), ([1, 0, 1], 2), ([1, FREE, 0], 1), ([0, 1, 0], 2)],
)
def test_free_is_from_where_on_nothing_is_above_the_threshold(kl, value):
    assert free_from(pd.DataFrame({"value": [0.0, 1.0, 2.0], "kl": kl})) == value


def test_the_words_name_the_earliest_and_the_latest_family():
    rows = table(made())
    rows["kl"] = np.where(rows["value"] >= 3, 0.0, 1.0)
    late = (rows["family"] == "word") & (rows["parameter"] == "d_attn") & (rows["value"] == 3)
    rows.loc[late, "kl"] = 1.0
    text = describe(rows)
    assert "4 samples" in text
    assert re.search(r"\b3 of 4\b[^.]*\b3: count, color\b[^.]*\b4: word\.", text)


def test_samples_without_families_are_one_curve():
    rows = table(made(families=("all",) * 12))
    assert set(rows["family"]) == {ALL}
    assert not re.search(r"\d: \w", describe(rows))  # no family
    assert [len(axes.lines) for axes in draw(rows).axes] == [2, 2, 2]


def test_the_lines_are_the_table():
    rows = table(made())
    figure = draw(rows)
    for axes, parameter in zip(figure.axes, ("d_attn", "d_mlp", "n_v"), strict=True):
        assert axes.get_title() == parameter
        *families, mean, threshold = axes.lines
        for line, family in zip([*families, mean], ["count", "word", "color", ALL], strict=True):
            curve = curve_of(rows, parameter, family)
            assert line.get_xdata().tolist() == curve["value"].tolist()
            assert line.get_ydata().tolist() == curve["kl"].tolist()
        assert set(threshold.get_ydata()) == {FREE}
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names[:3] == ["count", "word", "color"]
    assert [bool(re.search(v, n)) for v, n in zip(("95 %", "0.05 nat"), names[3:], strict=True)]
    looks = {(line.get_marker(), line.get_linestyle()) for line in figure.axes[0].lines[:3]}
    assert len(looks) == 3


def test_fifteen_families_look_different_in_grey_and_a_dollar_is_no_formula(tmp_path):
    names = [r"$\frac$", *(f"family {i}" for i in range(14))]
    figure = draw(table(made(samples=15, families=tuple(names))))
    lines = figure.axes[0].lines[:15]
    assert len({f"{line.get_marker()} {line._dash_pattern}" for line in lines}) == 15
    figure.savefig(tmp_path / "curves.svg", transparent=True)


def test_a_real_run_has_curves(tmp_path):
    settings = {"samples": 4, "heldout": 0, "budget": ("12%",), "n_v": ("1/2", "1")}
    run(RunConfig(**settings, objective="additive", out=tmp_path / "run"))
    rows = table(stored_run(tmp_path / "run"))
    assert (rows.groupby(["parameter", "family"])["kl"].last() == 0).all()
    assert curve_of(rows, "d_attn")["value"].tolist() == list(range(13))
    assert "4 samples" in describe(rows)
