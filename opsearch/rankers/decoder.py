"""Rankers inside the decoder, which score tokens by attention in one of its layers.

Sources: FastV (ECCV 2024), PyramidDrop (CVPR 2025), SparseVLM (ICML 2025), FitPrune (AAAI 2025).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from opsearch.errors import echo
from opsearch.rankers.base import DECODER_ATTENTION, AttentionView

if TYPE_CHECKING:
    from torch import Tensor

_QUERY_CHUNK = 64  # rows of queries whose attention is computed at once


class _LastToken:
    """Ranker by the attention of one row, so that no full attention map is computed."""

    needs = frozenset({DECODER_ATTENTION})
    query_rows: ClassVar[Literal["last"]] = "last"

    def scores(self, view: AttentionView) -> Tensor:
        """Return the attention from the last row to each key, mean over heads, float32[B, K]."""
        return view.attention()[:, :, 0].mean(1)


@dataclass(frozen=True)
class FastV(_LastToken):
    """Attention from the last token, in the layer that precedes the ranking.

    The paper keeps a half to a tenth of the tokens from layer 2 or 3 on.
    """

    layers_back: ClassVar[int] = 1


@dataclass(frozen=True)
class PyramidDrop(_LastToken):
    """Attention from the last token, in the layer that follows the ranking.

    At the end of a stage, the norm and the query and key projections of the next layer give one
    attention row. The paper keeps a half, a quarter and an eighth of the tokens from layers 8, 16
    and 24 of 32 on.
    """

    layers_back: ClassVar[int] = 0


@dataclass(frozen=True)
class SparseVLM:
    """Attention from relevant question tokens, in the layer that precedes the ranking.

    Raters are the question tokens of more than average relevance: the softmax over question tokens
    of the inner products of embeddings, averaged over visual tokens. A score is the mean attention
    from the raters: over all heads in version 1.5, over the 14 of 32 heads with the most attention
    from raters to visual tokens in version 2. Tokens are dropped and not merged, as in version 2.

    The position bias of version 2 is left out: the ranking depends on its scale, which is not
    published, and it is not positive at all distances of long prompts.

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
            raise TypeError(f"heads={echo(self.heads)} is not a share above 0 and at most 1")

    def scores(self, view: AttentionView) -> Tensor:
        """Return the mean attention from raters to each key over the used heads, float32[B, K]."""
        import torch

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
    import torch

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


@dataclass(frozen=True)
class FitPrune:
    """Attention from the question times that from the image, in the layer after the ranking.

    The attention from a row is the maximum over its heads. A score is the mean attention from the
    question tokens times that from the remaining visual tokens. Queries are processed in chunks, so
    no full attention map is stored.
    """

    needs = frozenset({DECODER_ATTENTION})
    query_rows: ClassVar[Literal["all"]] = "all"
    layers_back: ClassVar[int] = 0

    def scores(self, view: AttentionView) -> Tensor:
        """Return the attention from the question times that from the image, float32[B, K]."""
        from_question, from_image = attention_by_source(view)
        return from_question * from_image


def attention_by_source(view: AttentionView) -> tuple[Tensor, Tensor]:
    """Return the mean attention that keys receive from question and visual rows, float32[B, K]."""
    question = (view.prompt.question().gather(1, view.query_positions) & view.query_valid).float()
    image = (view.prompt.visual.gather(1, view.query_positions) & view.query_valid).float()
    from_question = view.key_positions.new_zeros(view.key_positions.shape, dtype=question.dtype)
    from_image = from_question.clone()
    for start in range(0, view.query_positions.shape[1], _QUERY_CHUNK):
        rows = slice(start, start + _QUERY_CHUNK)
        attention = view.attention(rows).amax(1)
        from_question += (attention * question[:, rows, None]).sum(1)
        from_image += (attention * image[:, rows, None]).sum(1)
    mean = from_question / question.sum(1, keepdim=True).clamp(min=1)
    return mean, from_image / image.sum(1, keepdim=True).clamp(min=1)
