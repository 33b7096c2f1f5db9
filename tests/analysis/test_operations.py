"""The KL of each operation alone is that of its measurement, in tables, cells and words."""

from fractions import Fraction

import numpy as np
import pytest

from opsearch.analysis.curves import FREE
from opsearch.analysis.measured import Measured
from opsearch.analysis.operations import describe, draw, table
from opsearch.errors import OpsearchError
from opsearch.policy.counts import KV, MLP, MODULES, Q
from opsearch.problem.constraint import Constraint
from opsearch.problem.spaces.operations import layers_space, operations_space
from tests.analysis.made import made
from tests.support.messages import naming

LAYERS, SAMPLES = 4, 6


def over(space, seed=0, scale=1.0):
    """Random individual divergences over a space with a parameter per operation."""
    random = np.random.default_rng(seed)
    kl = [
        scale
        * random.exponential(size=(len(p.values), SAMPLES))
        * (1 - np.eye(len(p.values))[-1:].T)
        for p in space.parameters
    ]
    return Measured(
        label="made",
        settings={},
        space=space,
        flops=Constraint("flops", "FLOPs", np.zeros(0, np.int64), 1, 1, SAMPLES),
        items=tuple(map(str, range(SAMPLES))),
        families=("all",) * SAMPLES,
        tables={},
        alone={"kl": tuple(kl)},
    )


def test_every_operation_and_share_has_its_mean():
    measured = over(operations_space(LAYERS))
    rows = table(measured)
    assert len(rows) == 2 * (3 * LAYERS - 2)
    for k, (layer, module) in enumerate(measured.space.operations):
        for i, share in enumerate((0, 0.25)):
            (row,) = rows[
                (rows["layer"] == layer)
                & (rows["module"] == MODULES[module])
                & (rows["share"] == share)
            ].to_dict("records")
            assert row["kl"] == pytest.approx(measured.alone["kl"][k][i].mean())
            assert row["low"] <= row["kl"] <= row["high"]
            assert row["samples"] == SAMPLES


def test_cells_hold_the_numbers_and_are_empty_where_there_are_none():
    kept = {(0, MLP)}
    rows = table(over(layers_space(LAYERS, (Fraction(1),), kept=kept)))
    assert not len(rows[(rows["layer"] == 0) & (rows["module"] == "mlp")])
    axes, bar = draw(rows).axes
    cells = axes.collections[0].get_array()
    missing = np.ma.getmaskarray(cells) | np.isnan(np.ma.getdata(cells))
    assert [label.get_text() for label in axes.get_yticklabels()] == list(MODULES)
    assert np.argwhere(missing).tolist() == [[Q, LAYERS - 1], [MLP, 0], [MLP, LAYERS - 1]]
    assert len(axes.texts) == len(rows)
    for row in rows.to_dict("records"):
        at = MODULES.index(row["module"]), row["layer"]
        assert cells[at] == row["kl"]
        x, y = row["layer"] + 0.5, MODULES.index(row["module"]) + 0.5
        (text,) = [t for t in axes.texts if t.get_position() == (x, y)]
        assert text.get_text() == f"{row['kl']:.2f}"
    assert "nats" in bar.get_ylabel()


def test_tied_queries_and_keys_are_one_row_of_cells():
    rows = table(over(layers_space(LAYERS, (Fraction(1),), tied=True)))
    assert list(dict.fromkeys(rows["module"])) == ["q and kv", "mlp"]
    assert [t.get_text() for t in draw(rows).axes[0].get_yticklabels()] == ["q and kv", "mlp"]


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 100.0])
def test_any_size_of_numbers_is_drawn(scale):
    rows = table(over(operations_space(LAYERS), scale=scale))
    figure = draw(rows)
    figure.canvas.draw()
    assert len(figure.axes) == 3  # a panel for each share, and the colours


def test_the_words_name_the_dearest_and_count_the_free():
    rows = table(over(layers_space(LAYERS, (Fraction(1),)), scale=0.1))
    text = describe(rows)
    dearest = rows.sort_values("kl").iloc[-1]
    assert f"{dearest['module']} of layer {dearest['layer']} ({dearest['kl']:.2f}" in text
    assert f"{(rows['kl'] <= FREE).sum()} of {len(rows)} operations" in text


def test_choices_that_were_not_measured_are_left_out():
    measured = over(operations_space(LAYERS))
    for kl in measured.alone["kl"][:-1]:
        kl[1, 0] = np.nan
    rows = table(measured)
    assert set(rows["share"]) == {0}
    for kl in measured.alone["kl"][:-1]:
        kl[0, 0] = np.nan
    with pytest.raises(OpsearchError, match=naming("made", "--space operations")):
        table(measured)
    assert measured.space.operations[1][1] == KV


def test_spaces_without_single_operations_are_refused():
    with pytest.raises(OpsearchError, match=naming("'dop'", "analyze curves")):
        table(made())
