"""PyramidDrop: the visual tokens that the last token of the instruction is about to attend to.

At the end of a stage the next layer's norm, query and key projections give one row of attention;
its mean over heads is the score. Published: a half, a quarter, an eighth of the tokens from layers
8, 16 and 24 of 32 on. Source: PyramidDrop (CVPR 2025).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from opsearch.rankers.look import DECODER_ATTENTION, AttentionView


@dataclass(frozen=True)
class PyramidDrop:
    """Inside the decoder: what the last token attends to most in the layer to come."""

    needs = frozenset({DECODER_ATTENTION})
    asks: ClassVar[Literal["last"]] = "last"

    def scores(self, look: AttentionView) -> Tensor:
        """Attention of the last row to each key, mean over heads, float32[B, K]."""
        return look.attention()[:, :, 0].mean(1)
