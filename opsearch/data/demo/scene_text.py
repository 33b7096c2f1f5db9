"""Two lines of three letters, and two families of questions about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from numpy.random import Generator

from opsearch.data.demo import glyphs
from opsearch.data.demo.canvas import RGB, Picture, blank, paint, tint
from opsearch.data.demo.scene import Question, brightness, different_colors, pick, shift
from opsearch.data.demo.vocabulary import LETTERS, WORDS


@dataclass(frozen=True)
class Line:
    """Three letters in one colour.

    Attributes:
        text: The letters.
        is_word: True if they were chosen from WORDS.
        color: Name of their colour.
        rgb: Their colour as painted.
        top: Top edge in pixels.
        left: Left edge in pixels.
    """

    text: str
    is_word: bool
    color: str
    rgb: RGB
    top: int
    left: int


@dataclass(frozen=True)
class TextScene:
    """Two lines, one above the other: each a word of WORDS or three random letters.

    Attributes:
        brightness: Grey level of the background.
        lines: The upper and the lower line.
    """

    brightness: float
    lines: tuple[Line, Line]

    @classmethod
    def sample(cls, rng: Generator, scans: Sequence[int]) -> Self:
        """Draw a random scene; `scans` is unused."""
        grey = brightness(rng)
        upper, lower = different_colors(rng, 2)
        return cls(grey, (cls._line(rng, upper, 0), cls._line(rng, lower, 1)))

    @staticmethod
    def _line(rng: Generator, color: str, row: int) -> Line:
        is_word = rng.random() >= 0.4
        word = WORDS[rng.integers(len(WORDS))]
        letters = "".join(LETTERS[i] for i in rng.integers(len(LETTERS), size=3))
        return Line(
            text=word if is_word else letters,
            is_word=is_word,
            color=color,
            rgb=tint(rng, color),
            top=40 * row + 8 + shift(rng, -1, 2),
            left=4 + shift(rng, 0, 2),
        )

    def draw(self) -> Picture:
        """Paint the scene."""
        picture = blank(self.brightness)
        for line in self.lines:
            for position, name in enumerate(line.text):
                paint(picture, glyphs.letter(name), line.top, line.left + 24 * position, line.rgb)
        return picture


def letter(scene: TextScene, rng: Generator) -> Question:
    """Ask for one letter of a line."""
    row, position = int(rng.integers(2)), int(rng.integers(3))
    ordinal = ("first", "second", "third")[position]
    name = _line_name(scene.lines[row], row, rng)
    return Question(f"what is the {ordinal} letter of {name}?", scene.lines[row].text[position])


def word(scene: TextScene, rng: Generator) -> Question | None:
    """Ask for a line that is a word."""
    row = pick(rng, [row for row, line in enumerate(scene.lines) if line.is_word])
    if row is None:
        return None
    line = scene.lines[row]
    return Question(f"what text is {_line_name(line, row, rng)}?", line.text)


def _line_name(line: Line, row: int, rng: Generator) -> str:
    """Refer to a line by its position or by its colour."""
    return ("top", "bottom")[row] if rng.random() < 0.5 else line.color
