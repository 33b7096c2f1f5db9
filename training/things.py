"""Things in a picture: the ground truth of the auxiliary losses.

A thing is a shape, a digit, a bar or a letter. Every visual token whose centre lies in a thing's
box is labelled with it; a later thing covers an earlier one, as it does in the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opsearch.data.demo.canvas import SIZE
from opsearch.data.demo.scene import Scene
from opsearch.data.demo.scene_chart import ChartScene
from opsearch.data.demo.scene_digits import DigitsScene
from opsearch.data.demo.scene_shapes import ShapesScene
from opsearch.data.demo.scene_text import TextScene
from opsearch.data.demo.vocabulary import COLORS, DIGITS, LETTERS, SHAPES

PATCH = 8
GRID = SIZE // PATCH
VISUAL = GRID * GRID
BARS = tuple(f"bar {value}" for value in range(1, 10))
KINDS = (*SHAPES, *DIGITS, *BARS, *LETTERS)
PLACES = 9
"""Largest number of places in a scene: the cells of the lattice of shapes."""

_SIDES = ((0, -1), (0, 1), (-1, 0), (1, 0))  # (rows, columns): left, right, above, below
_ROWS, _COLUMNS, _ORDINALS = ("top", "bottom"), ("left", "right"), ("first", "second", "third")

NAMING: dict[type[Scene], frozenset[str]] = {
    ShapesScene: frozenset({*COLORS, *SHAPES}),
    DigitsScene: frozenset({*COLORS, *_ROWS, *_COLUMNS}),
    ChartScene: frozenset(COLORS),
    TextScene: frozenset({*COLORS, *_ROWS, *_ORDINALS}),
}
"""Words by which questions about a kind of scene may refer to things; see Thing.names."""


@dataclass(frozen=True)
class Thing:
    """A thing in a picture.

    Attributes:
        kind: Its kind, in KINDS.
        color: Name of its colour.
        place: Its number among the places of the scene, below PLACES.
        box: Top, left, height and width in pixels.
        names: Words by which a question may refer to it.
        neighbors: For shapes, the colours to its left, right, above and below ("" for none).
    """

    kind: str
    color: str
    place: int
    box: tuple[int, int, int, int]
    names: frozenset[str]
    neighbors: tuple[str, ...] = ("", "", "", "")


def things(scene: Scene) -> list[Thing]:
    """Return the things of a scene in the order in which they are painted."""
    if isinstance(scene, ShapesScene):
        return _shapes(scene)
    if isinstance(scene, DigitsScene):
        return _digits(scene)
    if isinstance(scene, ChartScene):
        return _bars(scene)
    if isinstance(scene, TextScene):
        return _letters(scene)
    raise TypeError(f"no things are known of a {type(scene).__name__}")


def _shapes(scene: ShapesScene) -> list[Thing]:
    color = {(s.row, s.column): s.color for s in scene.shapes}
    found = []
    for s in scene.shapes:
        (y, x), size = s.center, 2 * s.radius + 1
        box = (y - s.radius, x - s.radius, size, size)
        around = tuple(color.get((s.row + down, s.column + right), "") for down, right in _SIDES)
        names = frozenset({s.color, s.shape})
        found.append(Thing(s.shape, s.color, 3 * s.row + s.column, box, names, around))
    return found


def _digits(scene: DigitsScene) -> list[Thing]:
    found = []
    for place, d in enumerate(scene.digits):
        names = frozenset({d.color, _ROWS[place // 2], _COLUMNS[place % 2]})
        found.append(Thing(str(d.value), d.color, place, (d.top, d.left, 32, 32), names))
    return found


def _bars(scene: ChartScene) -> list[Thing]:
    found = []
    for place, bar in enumerate(scene.bars):
        height, left = 8 * bar.value, scene.left + 16 * place
        # One pixel wider on both sides, so that the centre of a column of patches is always inside.
        box = (SIZE - 4 - height, left - 1, height, scene.bar_width + 3)
        found.append(Thing(BARS[bar.value - 1], bar.color, place, box, frozenset({bar.color})))
    return found


def _letters(scene: TextScene) -> list[Thing]:
    found = []
    for row, line in enumerate(scene.lines):
        for i, name in enumerate(line.text):
            names = frozenset({line.color, _ROWS[row], _ORDINALS[i]})
            box = (line.top, line.left + 24 * i, 21, 22)
            found.append(Thing(name, line.color, 3 * row + i, box, names))
    return found


@dataclass(frozen=True)
class TokenLabels:
    """Labels of the visual tokens; 0 is none, other numbers count KINDS and COLORS from 1.

    Attributes:
        kind: int64[VISUAL].
        color: int64[VISUAL].
        neighbors: int64[VISUAL, 4].
    """

    kind: NDArray[np.int64]
    color: NDArray[np.int64]
    neighbors: NDArray[np.int64]


def label_tokens(shown: list[Thing]) -> TokenLabels:
    """Label every visual token with the thing at its centre."""
    labels = np.zeros((GRID, GRID, 6), np.int64)
    for thing in shown:
        top, left, height, width = thing.box
        rows, columns = _tokens(top, height), _tokens(left, width)
        around = [_number(COLORS, color) for color in thing.neighbors]
        labels[rows, columns] = [_number(KINDS, thing.kind), _number(COLORS, thing.color), *around]
    flat = labels.reshape(VISUAL, 6)
    return TokenLabels(flat[:, 0], flat[:, 1], flat[:, 2:])


def _tokens(start: int, length: int) -> slice:
    """Return the rows (or columns) of tokens whose centre lies in [start, start + length)."""
    first, end = (max(0, -((PATCH // 2 - edge) // PATCH)) for edge in (start, start + length))
    return slice(first, end)


def _number(names: tuple[str, ...], name: str) -> int:
    return names.index(name) + 1 if name else 0
