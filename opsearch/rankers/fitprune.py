"""FitPrune: attention from both the question and the image in the layer that follows.

The attention from a row is the maximum over its heads. The score of a token is the mean attention
from the question tokens times the mean attention from the remaining visual tokens. Queries are
processed in chunks, so no full attention map is stored. Source: FitPrune (AAAI 2025).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from opsearch.rankers.look import DECODER_ATTENTION, AttentionView

_QUERY_CHUNK = 64


@dataclass(frozen=True)
class FitPrune:
    """Ranking by attention from question and image in the next layer; see `DecoderRanker`."""

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
