"""Rankings within image tiles, and their merge into one ranking of the sample.

Methods based on the vision tower rank each tile separately and keep the same share of each. The
merged ranking sorts the tokens of a sample by (k + 1/2) / M, where k is the rank of a token in its
tile of M tokens. The number of tokens kept in a tile never decreases with n, so a ranking that is
nested within tiles is nested in the sample. Tile sizes are known on the host, so nothing here
synchronizes with the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from opsearch.rankers.base import Prompt, owners
from opsearch.rankers.upload import upload

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Tiles:
    """G tiles of a batch, as rows padded to M tokens, the size of the largest tile.

    Attributes:
        samples: Sample of each tile.
        sizes: Number of tokens of each tile.
        index: Visual token of the batch in each entry, int64[G, M]; the number of all visual tokens
            where padded.
        merged: Rank in the sample of the k-th best token of each tile, int64[G, M] on the host.
    """

    samples: tuple[int, ...]
    sizes: tuple[int, ...]
    index: Tensor
    merged: NDArray[np.int64]

    @classmethod
    def of(cls, prompt: Prompt, tile: Tensor | None = None) -> Tiles:
        """Split a batch into tiles.

        Args:
            prompt: The batch.
            tile: Tile of each visual token, int64[sum of n_visual] on the CPU; None if each sample
                is one tile.
        """
        owner = owners(prompt.n_visual).numpy()
        number = np.zeros_like(owner) if tile is None else tile.numpy()
        pairs, row = np.unique(np.stack([owner, number]), axis=1, return_inverse=True)
        sizes = np.bincount(row.ravel(), minlength=pairs.shape[1])
        width = int(sizes.max(initial=0))
        index = np.full((len(sizes), width), len(owner))
        index[np.arange(width) < sizes[:, None]] = np.argsort(row.ravel(), kind="stable")
        samples = tuple(pairs[0].tolist())
        merged = _merged(pairs[0], sizes, width)
        on_device = upload(index, prompt.visual.device)
        return cls(samples, tuple(sizes.tolist()), on_device, merged)

    @property
    def mask(self) -> Tensor:
        """Mask of the entries that are tokens, bool[G, M]."""
        import torch

        columns = torch.arange(self.index.shape[1], device=self.index.device)
        return columns < upload(self.sizes, self.index.device)[:, None]

    def gather(self, per_token: Tensor) -> Tensor:
        """Group values of all visual tokens [sum of n_visual, ...] by tile, padded [G, M, ...]."""
        import torch

        padding = per_token.new_zeros(1, *per_token.shape[1:])
        return torch.cat([per_token, padding])[self.index]

    def quotas(self, n: Sequence[int]) -> list[int]:
        """Return the number of tokens of each tile among the first n[b] of its sample."""
        kept = np.array([n[sample] for sample in self.samples], np.int64)
        return [int(quota) for quota in (self.merged < kept[:, None]).sum(1)]

    def ranking(self, ranks: Tensor, prompt: Prompt) -> Tensor:
        """Merge ranks within tiles, int64[G, M], into ranks within samples, int64[B, S]."""
        import torch

        merged = upload(self.merged, ranks.device)
        flat = ranks.new_zeros(sum(prompt.n_visual) + 1)
        # Padded entries are scattered to the extra last element, which is dropped.
        flat.scatter_(0, self.index.flatten(), merged.gather(1, ranks).flatten())
        ranking = torch.full_like(prompt.visual, -1, dtype=torch.int64)
        return ranking.masked_scatter(prompt.visual, flat[:-1])


def _merged(samples: NDArray[np.int64], sizes: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """Return the rank in its sample of the k-th token of each tile; padding ranks last."""
    rows, columns = np.nonzero(np.arange(width) < sizes[:, None])
    share = (2 * columns + 1) / sizes[rows]
    order = np.lexsort((rows, share, samples[rows]))
    first = np.searchsorted(samples[rows][order], samples[rows])
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    merged = np.full((len(sizes), width), len(order))
    merged[rows, columns] = rank - first
    return merged


def ranks_by_score(scores: Tensor, mask: Tensor) -> Tensor:
    """Rank the tokens of each row by descending score, int64[G, M]; padding ranks last."""
    import torch

    lowest = torch.finfo(torch.float32).min
    masked = scores.float().clamp(min=lowest).masked_fill(~mask, -torch.inf)
    return inverse(torch.argsort(masked, dim=1, descending=True, stable=True))


def ranks_of_picks(picks: Tensor, mask: Tensor) -> Tensor:
    """Rank the tokens of each row: picked tokens in the order of their picks, then the others.

    Args:
        picks: Columns in the order in which they were picked, int64[G, T]; picks beyond the number
            of tokens of a row are ignored.
        mask: Mask of the tokens, bool[G, M].

    Returns:
        Ranks int64[G, M].
    """
    import torch

    rows, width = mask.shape
    steps = torch.arange(picks.shape[1], device=picks.device)
    real = steps < mask.sum(1, keepdim=True)
    key = torch.full((rows, width + 1), 2 * width, device=picks.device)
    key = key.scatter(1, torch.where(real, picks, width), steps.expand_as(picks))[:, :width]
    key = key.masked_fill(~mask, 3 * width)
    return inverse(torch.argsort(key, dim=1, stable=True))


def inverse(order: Tensor) -> Tensor:
    """Return the inverse permutation of each row, int64[G, M]."""
    import torch

    ranks = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter(1, order, ranks)


def cosines(vectors: Tensor) -> Tensor:
    """Return the rounded cosine similarity of all pairs of vectors in a row, float32[G, M, M]."""
    import torch

    unit = torch.nn.functional.normalize(vectors.float(), dim=-1)
    return rounded(unit @ unit.transpose(1, 2))


def rounded(similarity: Tensor) -> Tensor:
    """Round to multiples of 2^-18.

    Similarities then do not depend on the summation order of a device, and equal tokens tie.
    """
    import torch

    return torch.round(similarity * 2**18) / 2**18
