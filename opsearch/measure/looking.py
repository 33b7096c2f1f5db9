"""Rankers inside the decoder, applied to the nodes of a sweep.

Scores are those of a pruned model (opsearch/runtime/looking.py). Each attention view projects
queries and keys of its own, at one text node and one visual node of all samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from opsearch.measure.entry import DecoderInputs
from opsearch.measure.nodes import Ints
from opsearch.measure.ragged import spans, starts
from opsearch.measure.states import States
from opsearch.measure.turning import NodeReranking
from opsearch.rankers.base import AttentionView, DecoderRanker, ranking_from_scores
from opsearch.runtime.heads import project_keys, project_queries


class DecoderRanking:
    """Rankers that read a layer's input; every sample has visual rows of its own."""

    def __init__(self, layer: Any, rankers: Sequence[DecoderRanker], inputs: DecoderInputs) -> None:
        self.layer, self.rankers, self.inputs = layer, rankers, inputs

    def reranked(self, states: States, reranking: NodeReranking) -> States:
        """Return the states after the rerankings before the layer."""
        current = self.orders(states, reranking.views, reranking.rows, reranking.order)
        orders = [*states.pending, *current]
        before, view, rows_left = reranking.nodes.T
        rows, _ = spans(starts(reranking.rows)[before], rows_left, states.visual.device)
        index = rows.repeat(len(states.visual), 1)
        for first, size, start, number in zip(
            starts(rows_left), rows_left, starts(reranking.rows)[before], view, strict=True
        ):
            if number >= 0:
                chosen = orders[number][:, :size]
                index[:, first : first + chosen.shape[1]] = start + chosen
        visual = states.visual.gather(1, _wide(index, states.visual))
        parts = [
            _reordered(states.orders[:, old], orders[number] if number >= 0 else None)
            for old, number in reranking.orders
        ]
        return replace(states, visual=visual, orders=torch.stack(parts, 1))

    def orders(self, states: States, views: Ints, rows: Ints, order: Ints) -> list[Tensor]:
        """Return each view's order of its pool, int64[B, pool] rows in the visual node, best first.

        Args:
            states: States before the layer.
            views: int64[K, 4], see NodeReranking.
            rows: int64[V], rows of each visual node.
            order: int64[V], index of each visual node's order.
        """
        first, orders = starts(rows), []
        for ranker, pool, node, text in views.tolist():
            visual = states.visual[:, first[node] : first[node] + pool]
            positions = states.orders[:, order[node], :pool]
            orders.append(self._order(self.rankers[ranker], states, visual, positions, text))
        return orders

    def _order(
        self, ranker: DecoderRanker, states: States, visual: Tensor, positions: Tensor, text: int
    ) -> Tensor:
        """Return the order of visual rows [B, pool, D] at positions int64[B, pool]."""
        inputs, prompt = self.inputs, self.inputs.prompt
        head, prompt_tail, tail = inputs.layout.head, inputs.layout.prompt_tail, inputs.layout.tail
        prompt_text = states.text[:, text * tail : text * tail + prompt_tail]
        pool, tail_positions = slice(head, head + positions.shape[1]), inputs.tail[:, :prompt_tail]
        normed = self.layer.input_layernorm(torch.cat([states.head, visual, prompt_text], 1))
        key_positions = torch.cat([inputs.head, positions, tail_positions], 1)
        all_rows = torch.arange(key_positions.shape[1], device=key_positions.device)
        text_rows = torch.cat([all_rows[:head], all_rows[pool.stop :]])
        query_rows = {"last": all_rows[-1:], "text": text_rows, "all": all_rows}[ranker.query_rows]
        attn, query_positions = self.layer.self_attn, key_positions[:, query_rows]
        view = AttentionView(
            prompt,
            project_queries(attn, normed[:, query_rows], inputs.samples.rotary(query_positions)),
            query_positions,
            torch.ones_like(query_positions, dtype=torch.bool),
            project_keys(attn, normed, inputs.samples.rotary(key_positions)),
            key_positions,
            torch.ones_like(key_positions, dtype=torch.bool),
            attn.scaling,
        )
        scores = ranker.scores(view)[:, pool]
        by_position = scores.new_zeros(prompt.visual.shape).scatter(1, positions, scores)
        in_pool = torch.zeros_like(prompt.visual).scatter(1, positions, True)
        rank = ranking_from_scores(by_position, in_pool).gather(1, positions)
        return rank.argsort(1)


def _reordered(positions: Tensor, order: Tensor | None) -> Tensor:
    """Return positions [B, N] with the first ones permuted by `order` int64[B, pool]."""
    if order is None:
        return positions
    return torch.cat([positions.gather(1, order), positions[:, order.shape[1] :]], 1)


def _wide(index: Tensor, states: Tensor) -> Tensor:
    return index[..., None].expand(-1, -1, states.shape[-1])
