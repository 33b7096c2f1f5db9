"""Masks to paint with: five shapes, and letters of a 5 x 7 bitmap font."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.float32]
"""float32[height, width] with values from 0 (transparent) to 1 (opaque)."""

_FONT = {
    "A": "01110 10001 10001 11111 10001 10001 10001",
    "B": "11110 10001 10001 11110 10001 10001 11110",
    "C": "01111 10000 10000 10000 10000 10000 01111",
    "D": "11110 10001 10001 10001 10001 10001 11110",
    "E": "11111 10000 10000 11110 10000 10000 11111",
    "F": "11111 10000 10000 11110 10000 10000 10000",
    "G": "01111 10000 10000 10011 10001 10001 01111",
    "H": "10001 10001 10001 11111 10001 10001 10001",
    "I": "01110 00100 00100 00100 00100 00100 01110",
    "K": "10001 10010 10100 11000 10100 10010 10001",
    "L": "10000 10000 10000 10000 10000 10000 11111",
    "M": "10001 11011 10101 10101 10001 10001 10001",
    "N": "10001 11001 10101 10011 10001 10001 10001",
    "O": "01110 10001 10001 10001 10001 10001 01110",
    "P": "11110 10001 10001 11110 10000 10000 10000",
    "R": "11110 10001 10001 11110 10100 10010 10001",
    "S": "01111 10000 10000 01110 00001 00001 11110",
    "T": "11111 00100 00100 00100 00100 00100 00100",
    "U": "10001 10001 10001 10001 10001 10001 01110",
    "W": "10001 10001 10001 10101 10101 11011 10001",
    "Y": "10001 10001 01010 00100 00100 00100 00100",
}


def enlarge(mask: Mask, rows: int, columns: int) -> Mask:
    """Return the mask with every dot enlarged to a block of `rows` x `columns` pixels."""
    return mask.repeat(rows, axis=0).repeat(columns, axis=1)


@cache
def letter(name: str) -> Mask:
    """Return the mask of one capital letter, [21, 20]."""
    dots = np.array([[float(dot) for dot in row] for row in _FONT[name].split()], np.float32)
    return enlarge(dots, 3, 4)


@cache
def shape(name: str, radius: int) -> Mask:
    """Return the mask of a shape about its centre, [2 * radius + 1, 2 * radius + 1]."""
    steps = np.arange(-radius, radius + 1, dtype=np.float32)
    y, x = steps[:, None], steps[None, :]
    distance = np.sqrt(x * x + y * y)
    inside: NDArray[np.bool_]
    if name == "circle":
        inside = distance <= radius
    elif name == "square":
        inside = (abs(x) <= 0.85 * radius) & (abs(y) <= 0.85 * radius)
    elif name == "triangle":
        inside = (abs(y) <= 0.9 * radius) & (abs(x) <= 0.55 * (y + radius))
    elif name == "cross":
        inside = (abs(x) <= 0.33 * radius) | (abs(y) <= 0.33 * radius)
    elif name == "ring":
        inside = (distance <= radius) & (distance >= 0.55 * radius)
    else:
        raise ValueError(f"no shape is called {name!r}")
    return inside.astype(np.float32)
