"""Memory limit of a pass."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from opsearch.costs.shape import Shape
from opsearch.measure.nodes import Ints
from opsearch.measure.trie import Size


@dataclass(frozen=True)
class MemoryBudget:
    """Limit on the states of a pass.

    Attributes:
        shape: Shape of the decoder.
        itemsize: Bytes of one element.
        memory: Bytes that all states together may take.
    """

    shape: Shape
    itemsize: int = 4
    memory: float = inf

    def holds(self, elements: Ints, size: Size) -> NDArray[np.bool_]:
        """Return for each of several passes whether it fits, bool[...].

        Args:
            elements: Elements held per sample and per image, int64[L + 1, ..., 2].
            size: Number of samples and images.
        """
        widest = (elements @ np.array(size)).max(axis=0)
        return np.asarray(self.itemsize * widest <= self.memory)
