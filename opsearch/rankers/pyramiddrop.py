"""PyramidDrop: attention from the last token of the instruction in the layer that follows.

At the end of a stage the norm and the query and key projections of the next layer give one
attention row, whose mean over heads is the score. The paper keeps a half, a quarter and an eighth
of the tokens from layers 8, 16 and 24 of 32 on. Source: PyramidDrop (CVPR 2025).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from opsearch.rankers.look import DECODER_ATTENTION, AttentionView


@dataclass(frozen=True)
class PyramidDrop:
    """Ranking by attention from the last token in the layer that follows; see `DecoderRanker`."""

    needs = frozenset({DECODER_ATTENTION})
    query_rows: ClassVar[Literal["last"]] = "last"
    layers_back: ClassVar[int] = 0

    def scores(self, view: AttentionView) -> Tensor:
        """Return the attention from the last row to each key, mean over heads, float32[B, K]."""
        return view.attention()[:, :, 0].mean(1)
