"""How rankers inside the decoder order the visual tokens of nodes, and what becomes of these.

Each look is that of the runtime (opsearch/runtime/looking.py), with queries and keys of its own: at
one text node and one visual node of all samples at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from opsearch.measure.entry import Entry
from opsearch.measure.nodes import Ints
from opsearch.measure.ragged import spans, starts
from opsearch.measure.states import States
from opsearch.measure.turning import Turning
from opsearch.rankers.look import AttentionView, DecoderRanker
from opsearch.rankers.prompt import ranking_from_scores
from opsearch.runtime.heads import project_keys, project_queries


class Looking:
    """Rankers that look at a layer's input; each sample shows an image of its own."""

    def __init__(self, layer: Any, rankers: Sequence[DecoderRanker], entry: Entry) -> None:
        self.layer, self.rankers, self.entry = layer, rankers, entry

    def turned(self, states: States, turning: Turning) -> States:
        """The states with visual nodes as they go on."""
        now = self.orders(states, turning.looks, turning.rows, turning.order)
        found = [*states.waiting, *now]
        before, look, left = turning.nodes.T
        rows, _ = spans(starts(turning.rows)[before], left, states.visual.device)
        index = rows.repeat(len(states.visual), 1)
        for first, size, start, number in zip(
            starts(left), left, starts(turning.rows)[before], look, strict=True
        ):
            if number >= 0:
                chosen = found[number][:, :size]
                index[:, first : first + chosen.shape[1]] = start + chosen
        visual = states.visual.gather(1, _wide(index, states.visual))
        parts = [
            _reordered(states.orders[:, old], found[number] if number >= 0 else None)
            for old, number in turning.orders
        ]
        return replace(states, visual=visual, orders=torch.stack(parts, 1))

    def orders(self, states: States, looks: Ints, rows: Ints, order: Ints) -> list[Tensor]:
        """The rows of each look's pool, best first, int64[B, pool] within the visual node.

        looks: int64[K, 4] at visual nodes of so many rows, and of these orders, int64[V] each.
        """
        first, found = starts(rows), []
        for ranker, pool, node, text in looks.tolist():
            visual = states.visual[:, first[node] : first[node] + pool]
            places = states.orders[:, order[node], :pool]
            found.append(self._order(self.rankers[ranker], states, visual, places, text))
        return found

    def _order(
        self, ranker: DecoderRanker, states: States, visual: Tensor, places: Tensor, text: int
    ) -> Tensor:
        """The order of visual rows [B, pool, D] at positions int64[B, pool]."""
        entry, prompt = self.entry, self.entry.prompt
        head, behind, tail = entry.layout.head, entry.layout.behind, entry.layout.tail
        told = states.text[:, text * tail : text * tail + behind]
        pool, other = slice(head, head + places.shape[1]), entry.tail[:, :behind]
        normed = self.layer.input_layernorm(torch.cat([states.head, visual, told], 1))
        reading = torch.cat([entry.head, places, other], 1)
        everything = torch.arange(reading.shape[1], device=reading.device)
        words = torch.cat([everything[:head], everything[pool.stop :]])
        asked = {"last": everything[-1:], "text": words, "all": everything}[ranker.query_rows]
        attn, asking = self.layer.self_attn, reading[:, asked]
        look = AttentionView(
            prompt,
            project_queries(attn, normed[:, asked], entry.samples.rotary(asking)),
            asking,
            torch.ones_like(asking, dtype=torch.bool),
            project_keys(attn, normed, entry.samples.rotary(reading)),
            reading,
            torch.ones_like(reading, dtype=torch.bool),
            attn.scaling,
        )
        scores = ranker.scores(look)[:, pool]
        everywhere = scores.new_zeros(prompt.visual.shape).scatter(1, places, scores)
        pooled = torch.zeros_like(prompt.visual).scatter(1, places, True)
        rank = ranking_from_scores(everywhere, pooled).gather(1, places)
        return rank.argsort(1)


def _reordered(positions: Tensor, order: Tensor | None) -> Tensor:
    """Positions [B, N] of which the first come in another order [B, pool]."""
    if order is None:
        return positions
    return torch.cat([positions.gather(1, order), positions[:, order.shape[1] :]], 1)


def _wide(index: Tensor, states: Tensor) -> Tensor:
    return index[..., None].expand(-1, -1, states.shape[-1])
