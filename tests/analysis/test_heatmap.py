"""The heat map shows the share of tokens that each live operation processes."""

from fractions import Fraction

import numpy as np
import pytest

from opsearch.analysis.heatmap import draw_heatmap, draw_terminal, save_heatmap, shares
from opsearch.policy import builders
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec

DEPTH = builders.depth(6, 3, 5, 4, "1/2")


def test_shares_are_those_of_live_operations():
    table = shares(DEPTH)
    assert table.tolist() == [
        [0.5, 0.5, 0.5, 0, 0, 0],
        [0.5, 0.5, 0.5, 0.5, 0.5, 0],
        [0.5, 0.5, 0.5, 0.5, 0, 0],
    ]
    dead = builders.depth(6, 6, 2, 6, "1/2")
    assert shares(dead).tolist() == [[0.5, 0, 0, 0, 0, 0], [0.5, 0.5, 0, 0, 0, 0], [0.5] + [0] * 5]


def test_shares_are_resolved_for_a_sample():
    assert shares(DEPTH, 5)[0].tolist() == [0.6, 0.6, 0.6, 0, 0, 0]


def test_the_terminal_shows_a_block_per_operation():
    lines = draw_terminal(DEPTH).plain.splitlines()
    blocks = (
        ("   q ▄ ▄ ▄ · · · ", "25%"),
        ("  kv ▄ ▄ ▄ ▄ ▄ · ", "42%"),
        (" mlp ▄ ▄ ▄ ▄ · · ", "33%"),
    )
    for line, (start, mean) in zip(lines, blocks, strict=False):
        assert line.startswith(start)
        assert line.endswith(f" {mean}")
    assert lines[3:] == ["layer 0         5"]


@pytest.mark.parametrize(
    ("share", "block"),
    [("1/10000", "▁"), ("1/8", "▁"), ("1/7", "▂"), ("1/2", "▄"), ("7/8", "▇"), ("9/10", "█")],
)
def test_a_little_is_seen_and_only_nothing_is_a_dot(share, block):
    lines = draw_terminal(builders.tokens(2, share)).plain.splitlines()
    assert lines[1].split()[1:3] == [block, block]
    assert lines[0].split()[1:3] == [block, "·"]  # the last layer's updates are never read


def test_the_ruler_counts_layers_from_zero():
    ruler = draw_terminal(builders.tokens(32, 1)).plain.splitlines()[-1]
    row = draw_terminal(builders.tokens(32, 1)).plain.splitlines()[1]
    assert ruler.split() == ["layer", "0", "5", "10", "15", "20", "25", "30"]
    # A label begins under the block of its layer, or the row would lie about depths.
    first = row.index("█")
    for layer in (5, 10, 30):
        assert abs(ruler.index(f" {layer}") + 1 - (first + 2 * layer)) <= 1


@pytest.mark.parametrize("layers", [12, 24, 32, 40])
def test_in_a_narrow_terminal_no_row_breaks(layers):
    policy = builders.depth(layers, layers, layers, layers // 2)
    narrow = draw_terminal(policy, width=60).plain.splitlines()
    wide = draw_terminal(policy, width=200).plain.splitlines()
    assert wide == draw_terminal(policy).plain.splitlines()
    assert max(map(len, narrow)) <= 60
    for one, other in zip(narrow[:3], wide[:3], strict=True):
        assert one.replace(" ", "") == other.replace(" ", "")
    if layers > 23:
        ruler, first = narrow[-1], narrow[1].index("█")
        for layer in range(0, layers, 10):
            assert ruler[first + layer :].startswith(str(layer))


def test_the_figure_has_a_cell_per_operation_with_its_share():
    axes, bar = draw_heatmap(DEPTH).axes
    (image,) = axes.images
    assert np.array_equal(image.get_array(), shares(DEPTH))
    assert image.get_clim() == (0, 1)
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["50"] * 3 + [""] * 3 + ["50"] * 5 + [""] + ["50"] * 4 + [""] * 2
    assert [label.get_text() for label in axes.get_yticklabels()] == ["q", "kv", "mlp"]
    assert axes.get_title(loc="left") == DEPTH.name
    assert [label.get_text() for label in bar.get_yticklabels()] == ["0 %", "50 %", "100 %"]


@pytest.mark.parametrize("ending", ["svg", "png", "pdf"])
def test_the_figure_is_saved_by_its_ending(tmp_path, ending):
    path = save_heatmap(DEPTH, tmp_path / "new" / f"policy.{ending}")
    start = {"svg": b"<?xml", "png": b"\x89PNG", "pdf": b"%PDF"}[ending]
    assert path.read_bytes().startswith(start)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_name_with_a_dollar_is_drawn_as_it_is(tmp_path):
    """Matplotlib reads $...$ as a formula; a policy's name is only text."""
    half = (Fraction(1, 2),) * 3
    policy = Policy((half,) * 2, rankers=((0, RankerSpec("cls")),), name=r"costs $\frac$ and $5")
    assert save_heatmap(policy, tmp_path / "policy.svg").stat().st_size > 1000
