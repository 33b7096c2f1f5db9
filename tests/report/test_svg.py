"""Figures in the page: text stays text, colours follow the theme, ids do not clash."""

import re
from xml.etree import ElementTree

import pytest
from matplotlib.figure import Figure

from opsearch.report.svg import inline
from tests.report.page import Page, assert_harmless


def figure(label="a label"):
    drawn = Figure(figsize=(4, 3))
    axes = drawn.subplots()
    axes.plot([1, 2, 3], [1, 10, 100], color="black", marker="o")
    axes.fill_between([1, 2, 3], [1, 2, 3], color="black", alpha=0.2)
    axes.set_yscale("log")
    axes.set_xlabel(label)
    drawn.colorbar(axes.scatter([1, 2], [3, 4], c=[0.0, 1.0]), ax=axes)
    return drawn


def test_two_figures_share_a_page():
    page = Page(str(inline(figure(), "one", "first") + inline(figure(), "two", "second")))
    assert_harmless(page)
    assert page.values("aria-label") == ["first", "second"]
    assert page.values("viewbox") == ["0 0 288 216"] * 2


def test_only_what_a_page_needs_is_left():
    source = str(inline(figure(), "one", "first"))
    for word in ("<?xml", "DOCTYPE", "metadata", "<style", "xlink", "xmlns", "DejaVu", "<image"):
        assert word not in source


def test_black_and_white_follow_the_theme():
    drawn = figure()
    drawn.axes[0].text(1, 1, "in a box", bbox={"facecolor": "white", "edgecolor": "black"})
    source = str(inline(drawn, "one", "first"))
    assert not re.search("#000000|#ffffff", source)
    assert "stroke: currentColor" in source
    assert "fill: var(--paper)" in source


@pytest.mark.parametrize("label", ["<script>alert(1)</script>", "a & 'b' \"c\"", "\x01\x08x", "猫"])
def test_words_stay_words(label):
    source = str(inline(figure(label), "one", "figure"))
    root = ElementTree.fromstring(source)
    shown = re.sub("[\x00-\x1f]", "", label)
    assert shown in [element.text for element in root.iter("text")]
    assert "script" not in Page(source).tags


def test_the_same_figure_is_written_the_same():
    assert inline(figure(), "one", "first") == inline(figure(), "one", "first")


def test_colour_bars_have_no_gaps():
    drawn = figure()
    assert drawn.findobj(lambda artist: bool(artist.get_rasterized()))
    assert str(inline(drawn, "one", "first")).count("<path") > 256
