"""What enters the decoder, apart by what pruning makes of it: head, visual tokens, tail."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from opsearch.measure.trie import Layout

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Entry:
    """A batch of samples of one layout.

    embeds: [B, S, D]; cos_sin: rotary embeddings of all positions, [..., B or 1, S, hd] (older
    transformers lead with time, height and width); head, tail: int64[B, R] positions that are not
    visual; order: int64[B, N] those that are, best first.
    """

    embeds: Tensor
    cos_sin: Pair
    head: Tensor
    tail: Tensor
    order: Tensor
    layout: Layout

    @classmethod
    def of(
        cls, embeds: Tensor, cos_sin: Pair, visual: Tensor, rank: Tensor, layout: Layout
    ) -> Entry:
        """visual: bool[B, S], the same in all rows; rank: int64[B, S], places in the ranking."""
        text = (~visual[0]).nonzero().flatten().expand(len(visual), -1)
        behind = rank.masked_fill(~visual, torch.iinfo(rank.dtype).max)
        order = torch.argsort(behind, dim=1, stable=True)[:, : layout.n_visual]
        return cls(embeds, cos_sin, text[:, : layout.head], text[:, layout.head :], order, layout)

    def rows(self, places: Tensor) -> Tensor:
        """Embeddings [B, R, D] of positions int64[B, R]."""
        return self.embeds.gather(1, places[..., None].expand(-1, -1, self.embeds.shape[-1]))

    def rotary(self, places: Tensor) -> Pair:
        """cos and sin [..., B, R, hd] of positions int64[B, R]."""
        leading = self.cos_sin[0].shape[:-3]
        index = places[..., None].expand(*leading, -1, -1, self.cos_sin[0].shape[-1])
        cos, sin = (t.expand(*leading, len(places), -1, -1) for t in self.cos_sin)
        return cos.gather(-2, index), sin.gather(-2, index)
