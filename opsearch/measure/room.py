"""What bounds a pass: a number of bytes, in a decoder of a shape and element size."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from opsearch.costs.shape import Shape
from opsearch.measure.nodes import Ints
from opsearch.measure.trie import Size


@dataclass(frozen=True)
class Room:
    """What bounds the states of a pass.

    itemsize: bytes of one number; memory: bytes that all may take at once.
    """

    shape: Shape
    itemsize: int = 4
    memory: float = inf

    def holds(self, elements: Ints, size: Size) -> NDArray[np.bool_]:
        """Whether passes fit that hold so many numbers per sample and image, int64[L + 1, ..., 2].

        One answer for each of them, bool[...].
        """
        widest = (elements @ np.array(size)).max(axis=0)
        return np.asarray(self.itemsize * widest <= self.memory)
