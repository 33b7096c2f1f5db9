"""Token layout of a sample, and the numbers of samples and images that are measured together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """Positions of a sample's tokens, answer positions included.

    Attributes:
        n_visual: Visual tokens.
        head: Other tokens before the first visual token, none of which attends to visual tokens.
        tail: All others.
        inner: Tokens of the tail that visual tokens attend to: those between visual tokens, or the
            whole prompt.
        answers: Last rows of the tail, whose logits are compared.
    """

    n_visual: int
    head: int
    tail: int
    inner: int
    answers: int

    @classmethod
    def of(cls, visual: NDArray[np.bool_], answers: int, both_ways: bool = False) -> Layout:
        """Return the layout of a prompt followed by `answers` - 1 answer tokens.

        Args:
            visual: bool[S], true at the visual tokens of the prompt.
            answers: Answer positions whose logits are compared.
            both_ways: True if all tokens of the prompt attend to all others.
        """
        (positions,) = visual.nonzero()
        if both_ways:
            others = len(visual) - len(positions)
            return cls(len(positions), 0, others + answers - 1, others, answers)
        first, last = int(positions[0]), int(positions[-1])
        inner = last + 1 - first - len(positions)
        return cls(
            len(positions),
            first,
            len(visual) - first - len(positions) + answers - 1,
            inner,
            answers,
        )

    @property
    def coupled(self) -> bool:
        """True if visual rows depend on text of the tail."""
        return self.inner > 0

    @property
    def prompt_tail(self) -> int:
        """Tokens of the tail that belong to the prompt."""
        return self.tail - self.answers + 1

    @property
    def length(self) -> int:
        """Positions of the whole sample."""
        return self.head + self.tail + self.n_visual


class Size(NamedTuple):
    """Number of samples measured together, and of distinct images among them."""

    samples: int
    images: int


ONE = Size(1, 1)
"""One sample on one image."""
