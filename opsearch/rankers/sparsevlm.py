"""SparseVLM: attention from question tokens about the image in the preceding layer.

These question tokens, the raters, are selected by their relevance to the visual tokens: the softmax
over question tokens of the inner products of embeddings, averaged over visual tokens. Raters have
more than the average relevance. A score is the mean attention from the raters: over all heads in
version 1.5, over the 14 of 32 heads with the most attention from raters to visual tokens in version
2. Tokens are dropped and not merged, as in version 2.

Version 2 also divides the attention by a position bias, the product of rotated vectors of ones. It
is left out: the ranking depends on the scale of the bias, which is not published, and the bias is
not positive at all distances of long prompts. Source: SparseVLM (ICML 2025).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from opsearch.rankers.look import DECODER_ATTENTION, AttentionView


@dataclass(frozen=True)
class SparseVLM:
    """Ranking by attention from raters in the preceding layer; see `DecoderRanker`.

    Attributes:
        heads: Share of the heads that is averaged, those with the most attention to visual tokens.
        needs: Inputs of the ranker.
    """

    heads: float = 1.0
    needs = frozenset({DECODER_ATTENTION, "embeddings"})
    query_rows: ClassVar[Literal["text"]] = "text"
    layers_back: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not isinstance(self.heads, (int, float)) or not 0 < self.heads <= 1:
            raise TypeError(f"heads={self.heads!r} is no share above 0 and at most 1")

    def scores(self, view: AttentionView) -> Tensor:
        """Return the mean attention from raters to each key over the used heads, float32[B, K]."""
        is_rater = raters(view).float()
        by_head = (view.attention() * is_rater[:, None, :, None]).sum(2)
        visual = view.prompt.visual.gather(1, view.key_positions) & view.key_valid
        to_visual = (by_head * visual[:, None]).sum(-1)
        number = max(1, int(self.heads * by_head.shape[1] + 0.5))
        heads = torch.argsort(to_visual, dim=1, descending=True, stable=True)[:, :number]
        chosen = by_head.gather(1, heads[..., None].expand(-1, -1, by_head.shape[2]))
        return chosen.mean(1) / is_rater.sum(1, keepdim=True).clamp(min=1)


def raters(view: AttentionView) -> Tensor:
    """Return a mask of the raters, bool[B, Q]; all question tokens if none is above average."""
    prompt, positions = view.prompt, view.query_positions
    assert prompt.embeds is not None
    question = prompt.question().gather(1, positions) & view.query_valid
    visual = torch.argsort(~prompt.visual, dim=1, stable=True)[:, : max(prompt.n_visual)]
    valid = prompt.visual.gather(1, visual)
    products = _gather(prompt.embeds, visual) @ _gather(prompt.embeds, positions).transpose(1, 2)
    shares = products.masked_fill(~question[:, None], -torch.inf).softmax(-1).nan_to_num(0.0)
    relevance = (shares * valid[..., None]).sum(1) / valid.sum(1, keepdim=True).clamp(min=1)
    average = relevance.sum(1, keepdim=True) / question.sum(1, keepdim=True).clamp(min=1)
    found = question & (relevance > average)
    return torch.where(found.any(1, keepdim=True), found, question)


def _gather(embeds: Tensor, positions: Tensor) -> Tensor:
    """Gather embeddings at positions int64[B, R], float32[B, R, D]."""
    return embeds.gather(1, positions[..., None].expand(-1, -1, embeds.shape[-1])).float()
