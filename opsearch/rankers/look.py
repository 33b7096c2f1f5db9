"""What a ranker inside the decoder sees: the attention of one layer to the visual tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from opsearch.rankers.prompt import Prompt

DECODER_ATTENTION = "decoder_attention"  # what all rankers inside the decoder need


@dataclass(frozen=True, eq=False)
class AttentionView:
    """Rotated queries and keys of one layer, for B prompts padded to the longest.

    queries: [B, H, Q, hd] of the rows that the ranker asks for; asking: int64[B, Q], their
    positions; asked: bool[B, Q], which of them are no filling. keys: [B, H_kv, K, hd] of all other
    tokens and of the visual ones to be ordered; reading, read: the same of them. scaling: what the
    layer multiplies scores by.
    """

    prompt: Prompt
    queries: Tensor
    asking: Tensor
    asked: Tensor
    keys: Tensor
    reading: Tensor
    read: Tensor
    scaling: float

    def attention(self, rows: slice = slice(None)) -> Tensor:
        """Softmax attention of some of the queries to all keys, float32[B, H, q, K].

        No row looks ahead; rows that are filling, or see nothing, are 0.
        """
        keys = self.keys.float()
        queries = self.queries[:, :, rows].float()
        heads, asking = queries.shape[1:3]
        # Heads that share their keys stand side by side, so that one product serves them all.
        queries = queries.unflatten(1, (keys.shape[1], -1)).flatten(2, 3)
        scores = (queries @ keys.transpose(-1, -2) * self.scaling).reshape(
            len(keys), heads, asking, -1
        )
        visible = self.reading[:, None, :] <= self.asking[:, rows, None]
        visible = visible & self.read[:, None, :] & self.asked[:, rows, None]
        weights: Tensor = scores.masked_fill(~visible[:, None], -torch.inf).softmax(-1)
        return weights.nan_to_num(0.0)


class DecoderRanker(Protocol):
    """Orders visual tokens inside the decoder, best first, by the attention of one layer.

    needs: as of other rankers, and DECODER_ATTENTION. asks: whose queries it sees: of the prompt's
    last row, of all other tokens, or of these and of the visual tokens to be ordered.
    """

    @property
    def needs(self) -> frozenset[str]: ...
    @property
    def asks(self) -> Literal["last", "text", "all"]: ...

    def scores(self, look: AttentionView) -> Tensor:
        """Scores of the keys, higher is better, float32[B, K]; those of other tokens are unused."""
