"""Ranker inputs of towers whose tokens are squares of patches of a square image or tile."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.nn.functional import avg_pool2d

from opsearch.models.handles import Handle, Store
from opsearch.models.vision import PATHS, Attention, Paths, cls_of_clip, on_tower
from opsearch.rankers.base import RECEIVED


@dataclass(frozen=True)
class Squares:
    """Capture of ranker inputs of a tower whose tokens are squares of patches.

    The attention of a token is the mean over its patches. Tokens are in the order of rows.

    Attributes:
        side: Returns the side of a square in patches, from the config.
        merge: Returns the features of squares from those of patches, see `joined_squares`; None if
            the projector reads squares.
        paths: Where the vision tower and the module that reads patches or squares are.
        cls_layer: Returns the attention of the layer whose output the projector reads.
    """

    side: Callable[[Any], int]
    merge: Callable[[Tensor, int], Tensor] | None = None
    paths: Paths = PATHS
    cls_layer: Callable[[Any], Attention] = cls_of_clip

    def __call__(self, model: Any, needs: Collection[str], store: Store) -> list[Handle]:
        """Install hooks that pass `needs` to `store`, a row per visual token."""
        size = self.side(model.config)

        def keep(name: str, value: Tensor) -> None:
            if name == "cls_attention" or name.startswith(RECEIVED):
                value = means_of_squares(value, size)
            store(name, value.flatten(0, 1))

        def read(rows: Tensor) -> Tensor:
            return rows if self.merge is None else self.merge(rows, size)

        return on_tower(model, needs, self.cls_layer, keep, self.paths, read)


def means_of_squares(rows: Tensor, size: int) -> Tensor:
    """Return the mean of each square of size x size patches.

    Squares at the right and lower edge may be smaller.

    Args:
        rows: Values of the patches of square tiles, [tiles, P] or [tiles, P, D].
        size: Side of a square.

    Returns:
        [tiles, tokens] or [tiles, tokens, D].
    """
    if rows.ndim == 2:
        return means_of_squares(rows[..., None], size)[..., 0]
    side = math.isqrt(rows.shape[1])
    grid = rows.float().transpose(1, 2).unflatten(2, (side, side))
    means: Tensor = avg_pool2d(grid, size, ceil_mode=True).flatten(2).transpose(1, 2)
    return means.to(rows.dtype)


def joined_squares(rows: Tensor, size: int) -> Tensor:
    """Return the features of all patches of each square, [tiles, tokens, size x size x D].

    Args:
        rows: Features of the patches of square tiles, [tiles, P, D].
        size: Side of a square.
    """
    side = math.isqrt(rows.shape[1])
    grid: Tensor = rows.unflatten(1, (side // size, size, side // size, size))
    return grid.transpose(2, 3).flatten(3).flatten(1, 2)
