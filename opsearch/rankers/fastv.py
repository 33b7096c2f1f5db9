"""FastV: attention from the last prompt token in the preceding layer.

The score is the mean over heads of one attention row, so no full attention map is computed. The
paper keeps a half to a tenth of the tokens from layer 2 or 3 on. Source: FastV (ECCV 2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from opsearch.rankers.look import DECODER_ATTENTION, AttentionView


@dataclass(frozen=True)
class FastV:
    """Ranking by attention from the last token in the preceding layer; see `DecoderRanker`."""

    needs = frozenset({DECODER_ATTENTION})
    query_rows: ClassVar[Literal["last"]] = "last"
    layers_back: ClassVar[int] = 1

    def scores(self, view: AttentionView) -> Tensor:
        """Return the attention from the last row to each key, mean over heads, float32[B, K]."""
        return view.attention()[:, :, 0].mean(1)
