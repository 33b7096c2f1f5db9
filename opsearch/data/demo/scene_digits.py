"""Four handwritten digits, and four families of questions about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from numpy.random import Generator

from opsearch.data.demo import digits, glyphs
from opsearch.data.demo.canvas import RGB, Picture, blank, paint, tint
from opsearch.data.demo.scene import (
    Question,
    brightness,
    different_colors,
    shift,
    two_of,
    yes_or_no,
)


@dataclass(frozen=True)
class Digit:
    """One handwritten digit.

    Attributes:
        value: The digit, 0 to 9.
        scan: Index of its scan.
        color: Name of its colour.
        rgb: Its colour as painted.
        ink: Opacity.
        top: Top edge in pixels.
        left: Left edge in pixels.
    """

    value: int
    scan: int
    color: str
    rgb: RGB
    ink: float
    top: int
    left: int


@dataclass(frozen=True)
class DigitsScene:
    """Four handwritten digits in four colours: top left, top right, bottom left, bottom right.

    Attributes:
        brightness: Grey level of the background.
        digits: The digits in this order.
    """

    brightness: float
    digits: tuple[Digit, ...]

    @classmethod
    def sample(cls, rng: Generator, scans: Sequence[int]) -> Self:
        """Draw a random scene from these scans."""
        grey = brightness(rng)
        colors = different_colors(rng, 4)
        chosen = [
            cls._digit(rng, scans[int(rng.integers(len(scans)))], color, *divmod(position, 2))
            for position, color in enumerate(colors)
        ]
        return cls(grey, tuple(chosen))

    @staticmethod
    def _digit(rng: Generator, scan: int, color: str, row: int, column: int) -> Digit:
        return Digit(
            value=digits.label(scan),
            scan=scan,
            color=color,
            rgb=tint(rng, color),
            ink=rng.uniform(0.85, 1.0),
            top=40 * row + 4 + shift(rng, -1, 1),
            left=40 * column + 4 + shift(rng, -1, 1),
        )

    def draw(self) -> Picture:
        """Paint the scene."""
        picture = blank(self.brightness)
        for digit in self.digits:
            mask = glyphs.enlarge(digits.scan(digit.scan), 4, 4)
            paint(picture, mask * digit.ink, digit.top, digit.left, digit.rgb)
        return picture


def digit_color(scene: DigitsScene, rng: Generator) -> Question:
    """Ask for the digit with a given colour."""
    digit = scene.digits[rng.integers(4)]
    return Question(f"what digit is {digit.color}?", str(digit.value))


def digit_pos(scene: DigitsScene, rng: Generator) -> Question:
    """Ask for the digit in a given corner."""
    position = int(rng.integers(4))
    row, column = ("top", "bottom")[position // 2], ("left", "right")[position % 2]
    return Question(f"what digit is at {row} {column}?", str(scene.digits[position].value))


def digit_max(scene: DigitsScene, rng: Generator) -> Question:
    """Ask for the largest digit."""
    return Question("what is the largest digit?", str(max(d.value for d in scene.digits)))


def digit_cmp(scene: DigitsScene, rng: Generator) -> Question | None:
    """Ask whether one digit is larger than another, unless they are equal."""
    one, other = (scene.digits[i] for i in two_of(rng, 4))
    if one.value == other.value:
        return None
    answer = yes_or_no(one.value > other.value)
    return Question(f"is {one.color} larger than {other.color}?", answer)
