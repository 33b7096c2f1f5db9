"""Tiles of LLaVA-NeXT and LLaVA-OneVision: the image scaled to one tile, then its tiles.

A tile has 2 x 2 patches. The tiles are joined, rows and columns of padding are removed, and a
newline token ends each row.
"""

from dataclasses import dataclass

import torch

TILE, PATCH = 12, 6
PINPOINTS = [[12, 24], [24, 12], [24, 24]]


@dataclass(frozen=True)
class Cut:
    """The grid of tiles (high, wide), and the rows and columns of patches that are not padding."""

    high: int
    wide: int
    rows: range
    columns: range

    @property
    def tiles(self):
        return 1 + self.high * self.wide

    @property
    def tokens(self):
        return 4 + len(self.rows) * (len(self.columns) + 1)


# By height and width. The first is padded above and below; it has as many tokens as the third.
CUTS = {
    (13, 24): Cut(2, 2, range(1, 3), range(4)),
    (24, 12): Cut(2, 1, range(4), range(2)),
    (12, 24): Cut(1, 2, range(2), range(4)),
    (24, 24): Cut(2, 2, range(4), range(4)),
}


def pixels(sizes, generator):
    """Return pixel_values [images, tiles, 3, 12, 12], missing tiles as zeros, and image sizes."""
    if not sizes:
        return {}
    values = torch.zeros(len(sizes), max(CUTS[size].tiles for size in sizes), 3, TILE, TILE)
    for picture, size in zip(values, sizes, strict=True):
        own = picture[: CUTS[size].tiles]
        own.copy_(torch.randn(own.shape, generator=generator))
    return {"pixel_values": values, "image_sizes": torch.tensor(sizes)}


def packed(patches, size):
    """Return the scores of an image's tiles [tiles, 4] in the order of its visual tokens."""
    cut, result = CUTS[size], patches[0].tolist()
    for row in cut.rows:
        for column in cut.columns:
            tile = 1 + row // 2 * cut.wide + column // 2
            result.append(float(patches[tile, row % 2 * 2 + column % 2]))
        result.append(result[-1])  # the newline token
    return result
