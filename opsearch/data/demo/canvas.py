"""Pictures to paint on: float32[80, 80, 3], RGB, 0 is black and 1 is full intensity."""

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from opsearch.data.demo.glyphs import Mask

SIZE = 80
Picture = NDArray[np.float32]
RGB = tuple[float, float, float]

_PALETTE: dict[str, RGB] = {
    "red": (0.90, 0.15, 0.15),
    "green": (0.15, 0.75, 0.20),
    "blue": (0.20, 0.35, 0.95),
    "yellow": (0.95, 0.85, 0.15),
    "purple": (0.65, 0.20, 0.75),
    "cyan": (0.15, 0.80, 0.85),
}


def tint(rng: Generator, color: str) -> RGB:
    """Return the RGB values of one object's colour: the pure colour with jitter per channel."""
    red, green, blue = (
        min(max(pure + jitter, 0.0), 1.0)
        for pure, jitter in zip(_PALETTE[color], rng.normal(0, 0.04, 3).tolist(), strict=True)
    )
    return red, green, blue


def blank(brightness: float) -> Picture:
    """Return an evenly grey picture."""
    return np.full((SIZE, SIZE, 3), brightness, np.float32)


def paint(picture: Picture, mask: Mask, top: int, left: int, rgb: RGB) -> None:
    """Blend a colour into the picture, in place, under the mask placed at (top, left)."""
    height, width = mask.shape
    window = picture[top : top + height, left : left + width]
    window += mask[:, :, None] * (np.array(rgb, np.float32) - window)


def develop(picture: Picture, rng: Generator) -> NDArray[np.uint8]:
    """Return the picture with grey camera noise, uint8[80, 80, 3]."""
    noise = rng.normal(0, 0.03, (SIZE, SIZE, 1)).astype(np.float32)
    light: Picture = np.clip(picture + noise, 0, 1)
    return (light * 255 + 0.5).astype(np.uint8)
