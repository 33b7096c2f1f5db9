"""Scans of handwritten digits, divided among the splits.

Source: "Optical Recognition of Handwritten Digits", E. Alpaydin and C. Kaynak, UCI Machine
Learning Repository, CC BY 4.0 (see NOTICE). `digits.npz` holds all 1,797 scans of the copy in
scikit-learn in a fixed shuffled order; each split owns a range of that order.
"""

from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SCANS = {
    "train": range(0, 1347),
    "calibration": range(1347, 1497),
    "held-out": range(1497, 1647),
    "test": range(1647, 1797),
}
"""Split -> indices of its scans; the splits are disjoint."""

_LEVELS = 16  # a value counts the inked dots of a 4 x 4 block of the original bitmap


@cache
def _load() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as file:
        return file["images"], file["labels"]


def scan(index: int) -> NDArray[np.float32]:
    """Return one scan as float32[8, 8]: 0 is blank paper, 1 is full ink."""
    levels: NDArray[np.uint8] = _load()[0][index]
    return levels.astype(np.float32) / np.float32(_LEVELS)


def label(index: int) -> int:
    """Return the digit, 0 to 9, on one scan."""
    return int(_load()[1][index])
