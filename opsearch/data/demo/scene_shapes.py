"""Coloured shapes on a lattice, and six families of questions about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from numpy.random import Generator

from opsearch.data.demo import glyphs
from opsearch.data.demo.canvas import RGB, Picture, blank, paint, tint
from opsearch.data.demo.scene import Question, brightness, pick, shift
from opsearch.data.demo.vocabulary import COLORS, SHAPES

_SIDES = {"left": (0, -1), "right": (0, 1), "above": (-1, 0), "below": (1, 0)}  # (rows, columns)


@dataclass(frozen=True)
class PlacedShape:
    """One shape on the 3 x 3 lattice.

    Attributes:
        shape: Name of the shape.
        color: Name of its colour.
        rgb: Its colour as painted.
        row: Row of its cell.
        column: Column of its cell.
        center: (y, x) in pixels.
        radius: Radius in pixels.
    """

    shape: str
    color: str
    rgb: RGB
    row: int
    column: int
    center: tuple[int, int]
    radius: int


@dataclass(frozen=True)
class ShapesScene:
    """One to nine coloured shapes, at most one in each cell of a 3 x 3 lattice.

    Attributes:
        brightness: Grey level of the background.
        shapes: The shapes, row by row.
    """

    brightness: float
    shapes: tuple[PlacedShape, ...]

    @classmethod
    def sample(cls, rng: Generator, scans: Sequence[int]) -> Self:
        """Draw a random scene; `scans` is unused."""
        grey = brightness(rng)
        occupied = rng.random(9) < rng.uniform(0.25, 0.75)
        occupied[rng.integers(9)] = True
        return cls(grey, tuple(cls._shape(rng, int(i)) for i in occupied.nonzero()[0]))

    @staticmethod
    def _shape(rng: Generator, cell: int) -> PlacedShape:
        color = COLORS[rng.integers(len(COLORS))]
        row, column = divmod(cell, 3)
        return PlacedShape(
            shape=SHAPES[rng.integers(len(SHAPES))],
            color=color,
            rgb=tint(rng, color),
            row=row,
            column=column,
            center=(24 * row + 16 + shift(rng, -1, 1), 24 * column + 16 + shift(rng, -1, 1)),
            radius=int(rng.integers(7, 11)),
        )

    def draw(self) -> Picture:
        """Paint the scene."""
        picture = blank(self.brightness)
        for shape in self.shapes:
            mask = glyphs.shape(shape.shape, shape.radius)
            y, x = shape.center
            paint(picture, mask, y - shape.radius, x - shape.radius, shape.rgb)
        return picture


def color(scene: ShapesScene, rng: Generator) -> Question | None:
    """Ask for the colour of a shape that occurs once."""
    target = pick(rng, _unique(scene, "shape"))
    if target is None:
        return None
    return Question(f"what color is the {target.shape}?", target.color)


def shape(scene: ShapesScene, rng: Generator) -> Question | None:
    """Ask for the shape of the only object of a colour."""
    target = pick(rng, _unique(scene, "color"))
    if target is None:
        return None
    return Question(f"what shape is the {target.color}?", target.shape)


def exist(scene: ShapesScene, rng: Generator) -> Question:
    """Ask whether an object of one colour and shape exists.

    Half of the answers are yes. Where possible, half of the questions with answer no combine a
    colour and a shape that both occur, but not together.
    """
    shown = {(s.color, s.shape) for s in scene.shapes}
    if rng.random() < 0.5:
        target = scene.shapes[rng.integers(len(scene.shapes))]
        return Question(f"is there a {target.color} {target.shape}?", "yes")
    absent = [(c, s) for c in COLORS for s in SHAPES if (c, s) not in shown]
    colors, shapes = {c for c, _ in shown}, {s for _, s in shown}
    tempting = [(c, s) for c, s in absent if c in colors and s in shapes]
    candidates = tempting if tempting and rng.random() < 0.5 else absent
    asked_color, asked_shape = candidates[rng.integers(len(candidates))]
    return Question(f"is there a {asked_color} {asked_shape}?", "no")


def count(scene: ShapesScene, rng: Generator) -> Question:
    """Ask for the number of objects of one colour or shape: 0 to 4, as evenly as possible."""
    words = [s.color for s in scene.shapes] + [s.shape for s in scene.shapes]
    counts = {word: words.count(word) for word in COLORS + SHAPES}
    small = [word for word, n in counts.items() if n <= 4]
    wanted = int(rng.integers(5))
    candidates = [word for word in small if counts[word] == wanted] or small
    word = candidates[rng.integers(len(candidates))]
    return Question(f"how many {word}?", str(counts[word]))


def spatial(scene: ShapesScene, rng: Generator) -> Question | None:
    """Ask on which side of one object another lies, for unique objects in one row or column."""
    kinds = [(s.color, s.shape) for s in scene.shapes]
    unique = [s for s in scene.shapes if kinds.count((s.color, s.shape)) == 1]
    line = "row" if rng.random() < 0.5 else "column"
    pair = pick(
        rng,
        [
            (one, other)
            for one in unique
            for other in unique
            if one is not other and getattr(one, line) == getattr(other, line)
        ],
    )
    if pair is None:
        return None
    one, other = pair
    if line == "row":
        answer = "left" if one.column < other.column else "right"
    else:
        answer = "above" if one.row < other.row else "below"
    return Question(
        f"which side of {other.color} {other.shape} is {one.color} {one.shape}?", answer
    )


def relation(scene: ShapesScene, rng: Generator) -> Question | None:
    """Ask for the colour of the neighbour on one side of a shape that occurs once."""
    cells = {(s.row, s.column): s for s in scene.shapes}
    candidates = [
        (side, anchor, cells[anchor.row + down, anchor.column + right])
        for anchor in _unique(scene, "shape")
        for side, (down, right) in _SIDES.items()
        if (anchor.row + down, anchor.column + right) in cells
    ]
    picked = pick(rng, candidates)
    if picked is None:
        return None
    side, anchor, neighbor = picked
    return Question(f"what color is {side} of the {anchor.shape}?", neighbor.color)


def _unique(scene: ShapesScene, attribute: str) -> list[PlacedShape]:
    """Return the shapes whose attribute (shape or colour) is unique in the scene."""
    values = [getattr(s, attribute) for s in scene.shapes]
    return [s for s, value in zip(scene.shapes, values, strict=True) if values.count(value) == 1]
