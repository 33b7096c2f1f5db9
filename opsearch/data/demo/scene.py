"""Common base of all kinds of scenes, and the random draws that they share.

A scene is data (colours, positions, values), so a question about it can be answered without pixels.
`sample` draws a scene, `draw` paints it. A family of questions is a function
(scene, rng) -> Question, or None when the scene allows none: "what color is the circle?" needs
exactly one circle. Every answer is one word.

All lengths are pixels of the 80 x 80 picture; rows and columns count from the top left, from 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, Self, TypeVar

from numpy.random import Generator

from opsearch.data.demo.canvas import Picture
from opsearch.data.demo.vocabulary import COLORS

T = TypeVar("T")


class Question(NamedTuple):
    """A question and its one-word answer."""

    text: str
    answer: str


class Scene(Protocol):
    """Interface of every kind of scene."""

    @classmethod
    def sample(cls, rng: Generator, scans: Sequence[int]) -> Self:
        """Draw a random scene; `scans` are the handwritten digits to choose from."""
        ...

    def draw(self) -> Picture:
        """Paint the scene, without noise, as float32[80, 80, 3]."""
        ...


def brightness(rng: Generator) -> float:
    """Draw the grey level of the background."""
    return rng.uniform(0, 0.25)


def different_colors(rng: Generator, count: int) -> list[str]:
    """Draw `count` distinct colours."""
    return [COLORS[i] for i in rng.permutation(len(COLORS))[:count]]


def shift(rng: Generator, low: int, high: int) -> int:
    """Draw the offset of an object from its regular position: low to high steps of 4 pixels."""
    return 4 * int(rng.integers(low, high + 1))


def pick(rng: Generator, candidates: Sequence[T]) -> T | None:
    """Draw one of the candidates; None when there are none."""
    return candidates[int(rng.integers(len(candidates)))] if candidates else None


def two_of(rng: Generator, count: int) -> tuple[int, int]:
    """Draw two different numbers below `count`."""
    first = int(rng.integers(count))
    return first, (first + int(rng.integers(1, count))) % count


def yes_or_no(true: bool) -> str:
    """Return "yes" or "no"."""
    return "yes" if true else "no"
