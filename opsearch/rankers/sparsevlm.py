"""SparseVLM: the visual tokens that words about the picture attend to in the layer before.

Such words, the raters, are tokens behind the image that visual tokens point to more than to the
average word: by softmax over the words of the products of embeddings, mean over visual tokens. A
score is the mean attention of raters, in version 1.5 of all heads, in version 2 of the 14 of 32
through which the raters attend to visual tokens most. Tokens are dropped and not merged, as in
version 2. Its division of attention by a bias, the product of rotated vectors of ones, is left out:
the bias has no known scale, on which the order depends, and is not above 0 at all distances of long
prompts. Source: SparseVLM (ICML 2025).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from opsearch.rankers.look import DECODER_ATTENTION, AttentionView


@dataclass(frozen=True)
class SparseVLM:
    """Inside the decoder: what words about the picture attend to most in the layer before.

    heads: which share of them is averaged, those that attend to visual tokens most.
    """

    heads: float = 1.0
    needs = frozenset({DECODER_ATTENTION, "embeddings"})
    asks: ClassVar[Literal["text"]] = "text"

    def __post_init__(self) -> None:
        if not isinstance(self.heads, (int, float)) or not 0 < self.heads <= 1:
            raise TypeError(f"heads={self.heads!r} is no share above 0 and at most 1")

    def scores(self, look: AttentionView) -> Tensor:
        """Attention of the raters to each key, mean over chosen heads and raters, float32[B, K]."""
        rating = raters(look).float()
        by_head = (look.attention() * rating[:, None, :, None]).sum(2)
        visual = look.prompt.visual.gather(1, look.reading) & look.read
        to_visual = (by_head * visual[:, None]).sum(-1)
        number = max(1, int(self.heads * by_head.shape[1] + 0.5))
        heads = torch.argsort(to_visual, dim=1, descending=True, stable=True)[:, :number]
        chosen = by_head.gather(1, heads[..., None].expand(-1, -1, by_head.shape[2]))
        return chosen.mean(1) / rating.sum(1, keepdim=True).clamp(min=1)


def raters(look: AttentionView) -> Tensor:
    """Which of the asking rows are raters, bool[B, Q]; all words where none is above average."""
    prompt, asking = look.prompt, look.asking
    assert prompt.embeds is not None
    words = prompt.question().gather(1, asking) & look.asked
    visual = torch.argsort(~prompt.visual, dim=1, stable=True)[:, : max(prompt.n_visual)]
    there = prompt.visual.gather(1, visual)
    products = _at(prompt.embeds, visual) @ _at(prompt.embeds, asking).transpose(1, 2)
    shares = products.masked_fill(~words[:, None], -torch.inf).softmax(-1).nan_to_num(0.0)
    relevance = (shares * there[..., None]).sum(1) / there.sum(1, keepdim=True).clamp(min=1)
    average = relevance.sum(1, keepdim=True) / words.sum(1, keepdim=True).clamp(min=1)
    found = words & (relevance > average)
    return torch.where(found.any(1, keepdim=True), found, words)


def _at(embeds: Tensor, places: Tensor) -> Tensor:
    """Rows [B, R, D] of embeddings at positions int64[B, R], float32."""
    return embeds.gather(1, places[..., None].expand(-1, -1, embeds.shape[-1])).float()
