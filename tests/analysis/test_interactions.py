"""Interactions are joint minus the sum of both alone, wherever both prune and it was measured."""

import re
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from opsearch.analysis.interactions import describe, draw, table
from opsearch.errors import OpsearchError
from opsearch.problem.spaces.depth import tokens_space
from tests.analysis.made import made
from tests.support.messages import naming, refuses


def of_pair(rows, first, second):
    return rows[(rows["first"] == first) & (rows["second"] == second)]


def test_every_pair_that_both_prune_has_its_interaction():
    measured = made()
    rows = table(measured)
    space, kl = measured.space, measured.tables["kl"].mean(axis=1)
    found = of_pair(rows, "d_attn", "n_v").set_index(["first_value", "second_value"])
    assert len(found) == 4 * 3 - 3  # without d_attn = 0, where no token is read in any case
    for i, j in [(1, 0), (3, 2)]:
        alone = kl[space.index_of([i, 4, 3])] + kl[space.index_of([4, 4, j])]
        row = found.loc[(i, float(space.parameters[2].values[j]))]
        assert np.isclose(row["joint"], kl[space.index_of([i, 4, j])])
        assert np.isclose(row["interaction"], row["joint"] - alone)
        assert row["low"] <= row["interaction"] <= row["high"]
    # Behind the last layer that is read, an MLP does nothing: d_mlp >= d_attn - 1 is d_attn alone.
    both = of_pair(rows, "d_attn", "d_mlp")
    assert (both["second_value"] < both["first_value"] - 1).all()


def test_what_adds_up_has_no_interaction():
    measured = made()
    terms = tuple(term - term[-1] for term in measured.alone["kl"])
    measured = replace(measured, alone=measured.alone | {"kl": terms})
    additive = replace(measured, tables=measured.tables | {"kl": measured.proxy()})
    assert np.allclose(table(additive)["interaction"], 0)
    assert re.search(r"\binteractions\b[^;]*? 0% ", describe(table(additive)))


def test_a_space_with_one_parameter_is_refused():
    space = tokens_space(4, (Fraction(1, 2), Fraction(1)))
    with refuses(OpsearchError, "made", "tokens", "dop"):
        table(replace(made(), space=space))


def test_pairs_that_were_not_measured_are_left_out_and_none_at_all_is_said():
    measured = made()
    kl = measured.tables["kl"].copy()
    space = measured.space
    kl[space.index_of([3, 4, 0])] = np.nan
    rows = table(replace(measured, tables=measured.tables | {"kl": kl}))
    assert len(of_pair(rows, "d_attn", "n_v")) == 4 * 3 - 3 - 1
    empty = measured.tables | {"kl": np.full_like(kl, np.nan)}
    with pytest.raises(
        OpsearchError, match=naming("made", "--objective joint --complete --budget 100%")
    ):
        table(replace(measured, tables=empty))


def test_the_words_name_the_largest_and_the_map_shows_it(tmp_path):
    rows = table(made())
    text = describe(rows)
    for (first, second), pair in rows.groupby(["first", "second"]):
        largest = pair.loc[pair["interaction"].abs().idxmax()]
        counted = rf"\b{first}\b[^.]*\b{second}\b[^.]*\b{len(pair)} of {len(pair)} pairs"
        extreme = re.escape(f" {largest['interaction']:+.2f} nats")
        assert re.search(rf"{counted}.*{extreme}", text)
    figure = draw(rows)
    images = [axes.images[0] for axes in figure.axes if axes.images]
    assert len(images) == 3
    shown = np.ma.concatenate([image.get_array().compressed() for image in images])
    assert np.allclose(np.sort(shown), np.sort(rows["interaction"]))
    figure.savefig(tmp_path / "interactions.svg")
