"""The embedded tasks are reproducible, balanced and unambiguous."""

import hashlib
from collections import Counter

import numpy as np
import pytest

from opsearch.data.demo import digits
from opsearch.data.demo.families import FAMILIES
from opsearch.data.demo.generator import SPLITS, Example, item
from opsearch.data.demo.scene_chart import ChartScene
from opsearch.data.demo.scene_digits import DigitsScene
from opsearch.data.demo.scene_shapes import PlacedShape, ShapesScene
from opsearch.data.demo.scene_text import TextScene
from opsearch.data.demo.vocabulary import COLORS, DIGITS, LETTERS, SHAPES, TOKENS, WORDS
from tests.support.messages import refuses

# A change of this digest changes the data, so that stored results no longer compare.
GOLDEN = "4f6bfc2f63951fee2d290e1993d06149990ef6f385c1acd6b350d5568164e597"


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return [item("calibration", 0, index) for index in range(1500)]


def right_answers(example: Example) -> list[str]:
    """Return every answer that the scene supports, reading nothing but the question's words."""
    words, scene = example.question.removesuffix("?").split(), example.scene
    if isinstance(scene, ShapesScene):
        return _about_shapes(example.family, words, scene)
    if isinstance(scene, DigitsScene):
        return _about_digits(example.family, words, scene)
    if isinstance(scene, ChartScene):
        value = {bar.color: bar.value for bar in scene.bars}
        if example.family == "bar_value":
            return [str(value[words[-1]])]
        if example.family == "bar_cmp":
            return ["yes" if value[words[1]] > value[words[4]] else "no"]
        wanted = {"tallest": max, "shortest": min}[words[4]](value.values())
        return [color for color, v in value.items() if v == wanted]
    assert isinstance(scene, TextScene)
    names = [("top", scene.lines[0].color), ("bottom", scene.lines[1].color)]
    texts = [n.text for n, name in zip(scene.lines, names, strict=True) if words[-1] in name]
    if example.family == "word":
        return texts
    return [text[["first", "second", "third"].index(words[3])] for text in texts]


def _about_shapes(family: str, words: list[str], scene: ShapesScene) -> list[str]:
    def matching(*look: str) -> list[PlacedShape]:
        return [s for s in scene.shapes if set(look) <= {s.color, s.shape}]

    if family == "color":
        return [s.color for s in matching(words[-1])]
    if family == "shape":
        return [s.shape for s in matching(words[-1])]
    if family == "exist":
        return ["yes" if matching(*words[3:5]) else "no"]
    if family == "count":
        return [str(len(matching(words[-1])))]
    if family == "spatial":
        pairs = [(a, b) for a in matching(*words[6:8]) for b in matching(*words[3:5])]
        return [_side(a, b) for a, b in pairs]
    anchors = matching(words[-1])
    beside = [
        s
        for a in anchors
        for s in scene.shapes
        if abs(s.row - a.row) + abs(s.column - a.column) == 1
    ]
    return [s.color for a in anchors for s in beside if _side(s, a) == words[3]]


def _side(one: PlacedShape, other: PlacedShape) -> str:
    down, right = one.row - other.row, one.column - other.column
    assert (down == 0) != (right == 0)
    if down == 0:
        return "left" if right < 0 else "right"
    return "above" if down < 0 else "below"


def _about_digits(family: str, words: list[str], scene: DigitsScene) -> list[str]:
    value = {digit.color: digit.value for digit in scene.digits}
    if family == "digit_color":
        return [str(value[words[-1]])]
    if family == "digit_cmp":
        assert value[words[1]] != value[words[4]]
        return ["yes" if value[words[1]] > value[words[4]] else "no"]
    if family == "digit_max":
        return [str(max(value.values()))]
    row, column = ["top", "bottom"].index(words[-2]), ["left", "right"].index(words[-1])
    return [str(d.value) for d in scene.digits if (d.top >= 40, d.left >= 40) == (row, column)]


def test_items_are_the_ones_they_always_were() -> None:
    digest = hashlib.sha256()
    for split in SPLITS:
        for index in range(15):
            example = item(split, 0, index)
            digest.update(f"{example.question} {example.answer}".encode())
            digest.update(example.pixels.tobytes())
    assert digest.hexdigest() == GOLDEN


def test_an_item_depends_on_nothing_but_split_seed_and_index() -> None:
    alone = item("test", 3, 40)
    for index in range(40):
        item("test", 3, index)
    again = item("test", 3, 40)
    assert alone.scene == again.scene
    assert (alone.question, alone.answer) == (again.question, again.answer)
    np.testing.assert_array_equal(alone.pixels, again.pixels)


def test_splits_and_seeds_give_different_pictures() -> None:
    keys = [(split, seed) for split in SPLITS for seed in (0, 1)]
    pictures = {item(s, seed, i).pixels.tobytes() for s, seed in keys for i in range(30)}
    assert len(pictures) == len(keys) * 30


def test_no_handwritten_digit_is_in_two_splits() -> None:
    indices = [index for scans in digits.SCANS.values() for index in scans]
    assert sorted(indices) == list(range(1797))
    seen: set[bytes] = set()
    for scans in digits.SCANS.values():
        images = {digits.scan(index).tobytes() for index in scans}
        assert not images & seen
        seen |= images
        assert {digits.label(index) for index in scans} == set(range(10))


@pytest.mark.parametrize("split", SPLITS)
def test_pictures_show_digits_of_their_own_split_only(split: str) -> None:
    drawn = set()
    for index in range(300):
        scene = item(split, 0, index).scene
        if isinstance(scene, DigitsScene):
            drawn |= {digit.scan for digit in scene.digits}
    assert drawn <= set(digits.SCANS[split])
    assert len(drawn) > 100


def test_families_take_turns(examples: list[Example]) -> None:
    assert [e.family for e in examples[:15]] == list(FAMILIES)
    assert set(Counter(e.family for e in examples[:150]).values()) == {10}


def test_every_question_has_one_right_answer(examples: list[Example]) -> None:
    for example in examples:
        assert right_answers(example) == [example.answer], example


def test_every_word_is_in_the_vocabulary(examples: list[Example]) -> None:
    words = {word for e in examples for word in e.question.replace("?", " ?").split()}
    assert words | {e.answer for e in examples} <= set(TOKENS)


def test_answers_are_spread_over_what_a_family_can_answer(examples: list[Example]) -> None:
    answers = {name: Counter(e.answer for e in examples if e.family == name) for name in FAMILIES}
    assert set(answers["color"]) == set(answers["relation"]) == set(COLORS)
    assert set(answers["shape"]) == set(SHAPES)
    assert set(DIGITS[:4]) <= set(answers["count"]) <= set(DIGITS[:5])  # 4 is rare
    assert set(answers["spatial"]) == {"left", "right", "above", "below"}
    assert set(answers["letter"]) <= set(LETTERS)
    assert set(answers["word"]) <= set(WORDS)
    for family in ("exist", "digit_cmp", "bar_cmp"):
        assert 0.3 < answers[family]["yes"] / 100 < 0.7
    assert max(n for counts in answers.values() for n in counts.values()) < 70


def test_pictures_are_visible_and_noisy(examples: list[Example]) -> None:
    for example in examples[:60]:
        assert example.pixels.shape == (80, 80, 3)
        assert example.pixels.dtype == np.uint8
        assert example.pixels.max() > 120
        clean = example.scene.draw()
        assert 0.01 < np.abs(example.pixels / 255 - clean).mean() < 0.04


def test_vocabulary_has_128_different_words() -> None:
    assert len(TOKENS) == len(set(TOKENS)) == 128


def test_an_unknown_split_is_refused_by_name() -> None:
    with refuses(ValueError, "split", "'validation'", "train, calibration, held-out, test"):
        item("validation", 0, 0)
