"""A bar chart, and three families of questions about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from numpy.random import Generator

from opsearch.data.demo.canvas import RGB, SIZE, Picture, blank, tint
from opsearch.data.demo.scene import (
    Question,
    brightness,
    different_colors,
    shift,
    two_of,
    yes_or_no,
)


@dataclass(frozen=True)
class Bar:
    """One bar of a chart.

    Attributes:
        value: Its height in grid lines, 1 to 9.
        color: Name of its colour.
        rgb: Its colour as painted.
    """

    value: int
    color: str
    rgb: RGB


@dataclass(frozen=True)
class ChartScene:
    """Five bars of distinct colours and heights in front of faint grid lines.

    Attributes:
        brightness: Grey level of the background.
        bars: The bars from left to right.
        left: Left edge of the first bar in pixels.
        bar_width: Width of a bar in pixels.
    """

    brightness: float
    bars: tuple[Bar, ...]
    left: int
    bar_width: int

    @classmethod
    def sample(cls, rng: Generator, scans: Sequence[int]) -> Self:
        """Draw a random scene; `scans` is unused."""
        grey = brightness(rng)
        values = (1 + rng.permutation(9)[:5]).tolist()
        colors = different_colors(rng, 5)
        return cls(
            grey,
            bars=tuple(Bar(v, c, tint(rng, c)) for v, c in zip(values, colors, strict=True)),
            left=shift(rng, 0, 1),
            bar_width=int(rng.integers(8, 13)),
        )

    def draw(self) -> Picture:
        """Paint the scene."""
        base, step = SIZE - 4, 8
        picture = blank(self.brightness)
        picture[base - 9 * step : base + 1 : step] += 0.12  # the grid lines of values 0 to 9
        for position, bar in enumerate(self.bars):
            left = self.left + 16 * position
            picture[base - step * bar.value : base, left : left + self.bar_width] = bar.rgb
        return picture


def bar_tall(scene: ChartScene, rng: Generator) -> Question:
    """Ask for the colour of the tallest or the shortest bar."""
    word, extreme = ("tallest", max) if rng.random() < 0.5 else ("shortest", min)
    bar = extreme(scene.bars, key=lambda bar: bar.value)
    return Question(f"what color is the {word} bar?", bar.color)


def bar_value(scene: ChartScene, rng: Generator) -> Question:
    """Ask for the height of a bar in grid lines."""
    bar = scene.bars[rng.integers(5)]
    return Question(f"what is the value of {bar.color}?", str(bar.value))


def bar_cmp(scene: ChartScene, rng: Generator) -> Question:
    """Ask whether one bar is taller than another."""
    one, other = (scene.bars[i] for i in two_of(rng, 5))
    answer = yes_or_no(one.value > other.value)
    return Question(f"is {one.color} taller than {other.color}?", answer)
