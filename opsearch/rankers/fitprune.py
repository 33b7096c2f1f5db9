"""FitPrune: the visual tokens that question and picture both attend to in the layer to come.

A row's attention is the largest of its heads. What a token gets from the rows of the question,
times what it gets from the visual rows that are left, is its score. Rows are taken a few at a time,
so that no whole map is held. Source: FitPrune (AAAI 2025).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from opsearch.rankers.look import DECODER_ATTENTION, AttentionView

_ROWS = 64


@dataclass(frozen=True)
class FitPrune:
    """Inside the decoder: what question and picture both attend to in the layer to come."""

    needs = frozenset({DECODER_ATTENTION})
    asks: ClassVar[Literal["all"]] = "all"

    def scores(self, look: AttentionView) -> Tensor:
        """Attention from the question times that from the picture, float32[B, K]."""
        question, picture = received(look)
        return question * picture


def received(look: AttentionView) -> tuple[Tensor, Tensor]:
    """What keys get from the question's rows and from the visual ones, mean, float32[B, K] each."""
    question = (look.prompt.question().gather(1, look.asking) & look.asked).float()
    picture = (look.prompt.visual.gather(1, look.asking) & look.asked).float()
    cross = look.reading.new_zeros(look.reading.shape, dtype=question.dtype)
    own = cross.clone()
    for start in range(0, look.asking.shape[1], _ROWS):
        rows = slice(start, start + _ROWS)
        attention = look.attention(rows).amax(1)
        cross += (attention * question[:, rows, None]).sum(1)
        own += (attention * picture[:, rows, None]).sum(1)
    mean = cross / question.sum(1, keepdim=True).clamp(min=1)
    return mean, own / picture.sum(1, keepdim=True).clamp(min=1)
