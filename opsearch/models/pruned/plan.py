"""Plan of one prefill: row sets, attention masks and rotary embeddings of each layer.

The plan is built from the resolved counts, up to the first layer where a ranker inside the decoder
reranks the tokens, and continued when the new ranking is known. Layers with equal counts and the
same ranking share their row sets, so a DOP policy has at most three of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from opsearch.models.attention import CosSin
from opsearch.models.pruned.masks import restrict_mask
from opsearch.models.pruned.rows import Rows, RowSubset
from opsearch.policy.counts import KV, MLP, Counts, Q
from opsearch.rankers.base import DecoderRanker, Prompt, ranking_from_scores
from opsearch.rankers.upload import upload


@dataclass(frozen=True, eq=False)
class LayerPlan:
    """Row sets of one layer.

    Attributes:
        q: Rows whose queries are computed, and that attention updates.
        kv: Rows whose keys and values are computed and stored.
        q_in_stream: `q` within the rows that enter the layer.
        kv_in_stream: `kv` within the rows that enter the layer.
        after: Rows that this layer's attention or MLP updates, or a later layer needs.
        after_in_stream: `after` within the rows that enter the layer.
        q_in_after: `q` within `after`.
        mlp_in_after: Rows of the MLP within `after`.
        next_in_after: Rows that the next layer needs within `after`; the last layer has none.
    """

    q: Rows
    kv: Rows
    q_in_stream: RowSubset
    kv_in_stream: RowSubset
    after: Rows
    after_in_stream: RowSubset
    q_in_after: RowSubset
    mlp_in_after: RowSubset
    next_in_after: RowSubset


@dataclass(frozen=True, eq=False)
class BatchReranking:
    """Reranking of a batch's visual tokens before some layer.

    Attributes:
        ranker: Ranker inside the decoder.
        attention_layer: Layer whose attention the ranker reads.
        candidates: Number of best-ranked tokens of each sample that are reranked, int64[B]; 0
            keeps the ranking of the sample.
    """

    ranker: DecoderRanker
    attention_layer: int
    candidates: Counts


class PlanInputs(NamedTuple):
    """Inputs from which the plan of a batch is built.

    Attributes:
        prompt: The batch.
        rank: Rank of each visual token in its sample, int64[B, S], -1 elsewhere.
        counts: Visual tokens that each operation processes, int64[B, L, 3].
        rerankings: Rerankings inside the decoder, by the first layer that uses the new ranking.
        added: Visual features that the decoder adds behind its first layers (DeepStack), [B, S, D]
            each, 0 at other tokens.
    """

    prompt: Prompt
    rank: Tensor
    counts: Counts
    rerankings: Mapping[int, BatchReranking]
    added: Sequence[Tensor] = ()


class Plan:
    """Row sets of all layers for one batch, as far as the ranking is known.

    Masks and rotary embeddings are computed once per row set and kind of layer.

    Attributes:
        prompt: The batch.
        rank: Current rank of each visual token, int64[B, S], -1 elsewhere.
        counts: Visual tokens that each operation processes, int64[B, L, 3].
        rerankings: Rerankings by the first layer that uses the new ranking.
        added: Visual features that are added behind the first layers, [B, S, D] each.
        layers: Number of layers.
        scores: Scores float32[B, S] of the next reranking, None until they are computed.
        planned: Plans of the first layers, up to the next reranking.
        left: Last hidden states of the rows that have left the stream, [B * S, D].
    """

    left: Tensor

    def __init__(self, inputs: PlanInputs) -> None:
        self.prompt, self.rank, self.counts, self.rerankings, self.added = inputs
        self.layers = self.counts.shape[1]
        self.scores: Tensor | None = None
        self.planned: list[LayerPlan] = []
        self._other = self.prompt.real & ~self.prompt.visual
        candidates = {layer: each.candidates for layer, each in self.rerankings.items()}
        self._entering, self._arriving = _stream_counts(self.counts, candidates)
        self._clear()
        if 0 not in self.rerankings:
            self._extend()

    def rows(self, counts: Counts) -> Rows:
        """Return all other tokens and the `counts` int64[B] best-ranked visual tokens."""
        key = tuple(int(c) for c in counts)
        if key not in self._sets:
            keep = self._other | self._best(counts)
            sizes = [text + count for text, count in zip(self.prompt.n_other, key, strict=True)]
            self._sets[key] = Rows.select(keep, sizes)
        return self._sets[key]

    def to_device(self, layer: int, device: torch.device) -> None:
        """Move the plan to the device of `layer`, the next one to run, if it is elsewhere."""
        if device != self.rank.device:
            self.move(layer, device)

    def move(self, layer: int, device: torch.device) -> None:
        """Move the plan to another device and rebuild it from `layer` on."""
        self.prompt, self.rank = self.prompt.to(device), self.rank.to(device)
        self.added = [features.to(device) for features in self.added]
        self.scores = None if self.scores is None else self.scores.to(device)
        self._other = self._other.to(device)
        if layer:
            self.left = self.left.to(device)
        self._clear()
        if layer < len(self.planned):  # otherwise `rerank` extends the plan
            del self.planned[layer:]
            self._extend()

    def arriving(self, layer: int) -> Rows:
        """Return the rows that arrive at a layer, before any reranking there."""
        return self.rows(self._arriving[:, layer])

    def entering(self, layer: int) -> Rows:
        """Return the rows that enter a layer, after any reranking before it."""
        return self.rows(self._entering[:, layer])

    def rerank(self, layer: int) -> RowSubset:
        """Rerank the candidates by `scores` before a layer.

        Returns:
            The rows that enter the layer, within those that arrive at it.
        """
        assert self.scores is not None
        scores, self.scores = self.scores, None
        arriving = self.arriving(layer)
        candidates = self._best(self.rerankings[layer].candidates)
        self.rank = torch.where(candidates, ranking_from_scores(scores, candidates), self.rank)
        self._clear()
        self._extend()
        return RowSubset.of(self.entering(layer), arriving)

    def begin(self, hidden: Tensor) -> Tensor:
        """Return the rows [R, D] of the inputs [B, S, D] that arrive at the first layer."""
        flat = hidden.flatten(0, 1)
        self.left = flat
        for features in self.added:
            self.left = self.left + features.flatten(0, 1)
        return flat[self.arriving(0).flat]

    def leave(self, layer: int, stream_rows: Rows, stream: Tensor, staying: Rows) -> None:
        """Keep the hidden states of the rows that leave the stream.

        Args:
            layer: Layer whose visual features, and those of later layers, are still to be added.
            stream_rows: Positions of the rows of `stream`.
            stream: Hidden states, [R, D].
            staying: Rows that stay in the stream.
        """
        if staying.sizes != stream_rows.sizes:
            for later in range(layer, len(self.added)):
                stream = self.with_features(later, stream_rows, stream)
            self.left = self.left.index_copy(0, stream_rows.flat, stream)

    def with_features(self, layer: int, rows: Rows, stream: Tensor) -> Tensor:
        """Return rows [R, D] behind a layer with the visual features that are added there.

        Args:
            layer: The layer.
            rows: Positions of the rows.
            stream: The rows.
        """
        if layer >= len(self.added):
            return stream
        return stream + self.added[layer].flatten(0, 1)[rows.flat]

    def rotary(self, kind: str, position_embeddings: CosSin, rows: Rows) -> CosSin:
        """Return cos and sin of the rows' original positions, [..., B, K, hd].

        Layers of one kind share them. Tensors do not tell kinds apart: where a model is spread over
        devices, each layer gets copies, and a later copy may have the id of one that was freed.
        """
        cos, sin = position_embeddings
        key = ("rotary", id(rows), kind)
        if key not in self._memo:
            self._memo[key] = (rows.gather(cos), rows.gather(sin))
        return self._memo[key]  # type: ignore[return-value]

    def mask(
        self, kind: str, stock: Tensor | None, q: Rows, kv: Rows, attention: str
    ) -> tuple[Tensor | None, Tensor | None]:
        """Restrict the stock mask of a kind of layer to rows and columns, see `restrict_mask`."""
        key = ("mask", id(q), id(kv), kind)
        if key not in self._memo:
            self._memo[key] = restrict_mask(stock, q, kv, attention)
        return self._memo[key]  # type: ignore[return-value]

    def _best(self, counts: Counts) -> Tensor:
        """Return a mask of the `counts` int64[B] best-ranked visual tokens, bool[B, S]."""
        limit: int | Tensor = int(counts[0])
        if (counts != limit).any():
            limit = upload(counts, self.rank.device)[:, None]
        return self.prompt.visual & (self.rank < limit)

    def _clear(self) -> None:
        """Drop row sets, masks and rotary embeddings, which hold for one ranking and device."""
        self._sets: dict[tuple[int, ...], Rows] = {}
        self._memo: dict[object, object] = {}

    def _extend(self) -> None:
        """Plan the layers up to the next reranking."""
        subsets: dict[tuple[int, int], RowSubset] = {}

        def locate(subset: Rows, stream: Rows) -> RowSubset:
            key = (id(subset), id(stream))
            if key not in subsets:
                subsets[key] = RowSubset.of(subset, stream)
            return subsets[key]

        for layer in range(len(self.planned), self.layers):
            stream = self.entering(layer)
            counts = self.counts[:, layer]
            q, kv, mlp = (self.rows(counts[:, module]) for module in (Q, KV, MLP))
            following = self.arriving(layer + 1)
            after = self.rows(np.maximum(self._arriving[:, layer + 1], counts[:, [Q, MLP]].max(1)))
            self.planned.append(
                LayerPlan(
                    q=q,
                    kv=kv,
                    q_in_stream=locate(q, stream),
                    kv_in_stream=locate(kv, stream),
                    after=after,
                    after_in_stream=locate(after, stream),
                    q_in_after=locate(q, after),
                    mlp_in_after=locate(mlp, after),
                    next_in_after=_ALL if following is after else locate(following, after),
                )
            )
            if layer + 1 in self.rerankings:
                return


_ALL = RowSubset(None, None)


def _stream_counts(counts: Counts, candidates: Mapping[int, Counts]) -> tuple[Counts, Counts]:
    """Return the visual tokens that enter each layer, and that arrive at it before a reranking.

    Both are int64[B, L + 1]. They differ where candidates of a reranking are dropped.
    """
    entering = np.zeros((len(counts), counts.shape[1] + 1), np.int64)
    arriving = entering.copy()
    for layer in reversed(range(counts.shape[1])):
        entering[:, layer] = np.maximum(arriving[:, layer + 1], counts[:, layer].max(1))
        reranked = candidates.get(layer, entering[:, layer])
        arriving[:, layer] = np.maximum(entering[:, layer], reranked)
    return entering, arriving
