"""What every kind of picture shares, and the dice that they are drawn with.

A scene is data: it knows what it shows (colours, places, values), so a question about it can be
answered without looking at pixels. `sample` invents one, `draw` paints it. A family of questions is
a function (scene, rng) -> Question, or None when this scene leaves nothing to ask: "what color is
the circle?" needs exactly one circle. Every answer is one word.

All lengths are pixels of the 80 x 80 picture; rows and columns count from the top left, from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, Self, TypeVar

from numpy.random import Generator

from opsearch.demo.canvas import Picture
from opsearch.demo.vocabulary import COLORS

T = TypeVar("T")


class Question(NamedTuple):
    """A question and its one-word answer."""

    text: str
    answer: str


class Scene(Protocol):
    """What every kind of picture can do."""

    @classmethod
    def sample(cls, rng: Generator, scans: Sequence[int]) -> Self:
        """Invent a scene; `scans` are the handwritten digits that it may show."""
        ...

    def draw(self) -> Picture:
        """Paint the scene, without noise, as float32[80, 80, 3]."""
        ...


def brightness(rng: Generator) -> float:
    """Draw the grey of the background."""
    return rng.uniform(0, 0.25)


def different_colors(rng: Generator, count: int) -> list[str]:
    """Draw colours that are all different."""
    return [COLORS[i] for i in rng.permutation(len(COLORS))[:count]]


def shift(rng: Generator, low: int, high: int) -> int:
    """Draw how far an object sits from its regular place: low to high steps of 4 pixels."""
    return 4 * int(rng.integers(low, high + 1))


def pick(rng: Generator, candidates: Sequence[T]) -> T | None:
    """Draw one of the candidates; None when there are none."""
    return candidates[int(rng.integers(len(candidates)))] if candidates else None


def two_of(rng: Generator, count: int) -> tuple[int, int]:
    """Draw two different numbers below count."""
    first = int(rng.integers(count))
    return first, (first + int(rng.integers(1, count))) % count


def yes_or_no(true: bool) -> str:
    """Put a truth into a word."""
    return "yes" if true else "no"
