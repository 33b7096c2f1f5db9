"""FastV: the visual tokens that the prompt's last token attends to in the layer before.

One row of attention for each head, never a map: its mean over heads is the score. Published: from
layer 2 or 3 on, half to a tenth of the tokens. Source: FastV (ECCV 2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from opsearch.rankers.look import DECODER_ATTENTION, AttentionView


@dataclass(frozen=True)
class FastV:
    """Inside the decoder: what the last token attends to most in the layer before."""

    needs = frozenset({DECODER_ATTENTION})
    asks: ClassVar[Literal["last"]] = "last"

    def scores(self, look: AttentionView) -> Tensor:
        """Attention of the last row to each key, mean over heads, float32[B, K]."""
        return look.attention()[:, :, 0].mean(1)
