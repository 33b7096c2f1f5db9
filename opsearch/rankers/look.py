"""Inputs of rankers inside the decoder: the attention of one layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from opsearch.rankers.prompt import Prompt

DECODER_ATTENTION = "decoder_attention"  # input of all rankers inside the decoder


@dataclass(frozen=True, eq=False)
class AttentionView:
    """Rotated queries and keys of one layer, padded to the longest of B prompts.

    Attributes:
        prompt: The batch.
        queries: Queries of the rows that `DecoderRanker.query_rows` names, [B, H, Q, hd].
        query_positions: Their positions in the prompt, int64[B, Q].
        query_valid: Mask of the queries that are not padding, bool[B, Q].
        keys: Keys of the visual tokens to be ranked and of all other tokens, [B, H_kv, K, hd].
        key_positions: Their positions in the prompt, int64[B, K].
        key_valid: Mask of the keys that are not padding, bool[B, K].
        scaling: Factor of the attention logits.
    """

    prompt: Prompt
    queries: Tensor
    query_positions: Tensor
    query_valid: Tensor
    keys: Tensor
    key_positions: Tensor
    key_valid: Tensor
    scaling: float

    def attention(self, rows: slice = slice(None)) -> Tensor:
        """Return causal softmax attention from some queries to all keys, float32[B, H, q, K].

        Rows of padding queries, and of queries without any visible key, are 0.
        """
        keys = self.keys.float()
        queries = self.queries[:, :, rows].float()
        heads, number = queries.shape[1:3]
        # Heads that share a key head are concatenated, so one product computes all of them.
        queries = queries.unflatten(1, (keys.shape[1], -1)).flatten(2, 3)
        scores = (queries @ keys.transpose(-1, -2) * self.scaling).reshape(
            len(keys), heads, number, -1
        )
        visible = self.key_positions[:, None, :] <= self.query_positions[:, rows, None]
        visible = visible & self.key_valid[:, None, :] & self.query_valid[:, rows, None]
        weights: Tensor = scores.masked_fill(~visible[:, None], -torch.inf).softmax(-1)
        return weights.nan_to_num(0.0)


class DecoderRanker(Protocol):
    """Ranker of visual tokens inside the decoder, by the attention of one layer.

    Attributes:
        layers_back: Distance from the layer before which a policy places the ranker back to the
            layer whose attention it reads: 0 for that layer itself, 1 for the preceding one.
    """

    layers_back: ClassVar[int]

    @property
    def needs(self) -> frozenset[str]:
        """Inputs that the ranker reads: DECODER_ATTENTION and names in PROMPT_NEEDS."""

    @property
    def query_rows(self) -> Literal["last", "text", "all"]:
        """Rows whose queries the ranker reads.

        The last row of the prompt ("last"), all other tokens ("text"), or these and the visual
        tokens to be ranked ("all").
        """

    def scores(self, view: AttentionView) -> Tensor:
        """Return scores of the keys, higher is better, float32[B, K].

        Scores of keys that are not visual tokens are ignored.
        """
