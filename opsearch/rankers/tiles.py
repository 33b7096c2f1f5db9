"""The tiles of a batch side by side, and how their rankings become one ranking of the sample.

Methods of the vision tower choose in every tile alone and keep the same share of each: to keep n
tokens is to keep the first n when the k-th of the M tokens of a tile stands at (k + 1/2) / M. What
a tile keeps only grows with n, so a ranking that is nested in tiles is nested in the sample. How
many tokens belong to a tile is known to the host: nothing here waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opsearch.rankers.prompt import Prompt, owners
from opsearch.upload import upload


@dataclass(frozen=True, eq=False)
class Tiles:
    """G tiles of a batch of samples, as rows padded to the longest tile of M tokens.

    samples, sizes: of each tile; index: int64[G, M], which visual token of the batch stands there
    (its number where padded: one behind the last); merged: int64[G, M], the place in the sample of
    the k-th best token of each tile.
    """

    samples: tuple[int, ...]
    sizes: tuple[int, ...]
    index: Tensor
    merged: NDArray[np.int64]

    @classmethod
    def of(cls, prompt: Prompt, tile: Tensor | None = None) -> Tiles:
        """tile: int64[sum of n_visual] on the CPU, numbers of tiles; None: a sample is one tile."""
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
        """Which entries are tokens, bool[G, M]."""
        columns = torch.arange(self.index.shape[1], device=self.index.device)
        return columns < upload(self.sizes, self.index.device)[:, None]

    def gather(self, per_token: Tensor) -> Tensor:
        """Values of all visual tokens [sum of n_visual, ...] by tile, [G, M, ...]; 0 padded."""
        padding = per_token.new_zeros(1, *per_token.shape[1:])
        return torch.cat([per_token, padding])[self.index]

    def quotas(self, n: Sequence[int]) -> list[int]:
        """How many of the first n[b] tokens of each sample are of each tile."""
        kept = np.array([n[sample] for sample in self.samples], np.int64)
        return [int(quota) for quota in (self.merged < kept[:, None]).sum(1)]

    def ranking(self, places: Tensor, prompt: Prompt) -> Tensor:
        """The ranking of the samples, int64[B, S], from places in their tiles, int64[G, M]."""
        table = upload(self.merged, places.device)
        flat = places.new_zeros(sum(prompt.n_visual) + 1)
        # All padded entries go to the place behind the last token, which is cut off.
        flat.scatter_(0, self.index.flatten(), table.gather(1, places).flatten())
        spread = torch.full_like(prompt.visual, -1, dtype=torch.int64)
        return spread.masked_scatter(prompt.visual, flat[:-1])


def _merged(samples: NDArray[np.int64], sizes: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """Place in its sample of the k-th token of each tile; padded entries are beyond all places."""
    rows, columns = np.nonzero(np.arange(width) < sizes[:, None])
    share = (2 * columns + 1) / sizes[rows]
    order = np.lexsort((rows, share, samples[rows]))
    first = np.searchsorted(samples[rows][order], samples[rows])
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    merged = np.full((len(sizes), width), len(order))
    merged[rows, columns] = place - first
    return merged


def places_by_score(scores: Tensor, mask: Tensor) -> Tensor:
    """Place of each token in its row by falling score, ties in order; padding last. int64[G, M]."""
    lowest = torch.finfo(torch.float32).min
    shown = scores.float().clamp(min=lowest).masked_fill(~mask, -torch.inf)
    return inverse(torch.argsort(shown, dim=1, descending=True, stable=True))


def places_of_picks(picks: Tensor, mask: Tensor) -> Tensor:
    """Place of each token in its row: the picked ones as picked, then the others in order.

    picks: int64[G, T], the columns picked one after the other; those beyond a row's tokens are
    ignored. Returns int64[G, M].
    """
    rows, width = mask.shape
    steps = torch.arange(picks.shape[1], device=picks.device)
    real = steps < mask.sum(1, keepdim=True)
    key = torch.full((rows, width + 1), 2 * width, device=picks.device)
    key = key.scatter(1, torch.where(real, picks, width), steps.expand_as(picks))[:, :width]
    key = key.masked_fill(~mask, 3 * width)
    return inverse(torch.argsort(key, dim=1, stable=True))


def inverse(order: Tensor) -> Tensor:
    """The places of an order: the inverse permutation of each row, int64[G, M]."""
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter(1, order, places)


def cosines(vectors: Tensor) -> Tensor:
    """Cosine similarity of all pairs of a row's vectors, float32[G, M, M] from [G, M, D].

    Rounded to 2^-18: the same vectors have the same cosines, however a device sums up.
    """
    unit = torch.nn.functional.normalize(vectors.float(), dim=-1)
    return torch.round(unit @ unit.transpose(1, 2) * 2**18) / 2**18
