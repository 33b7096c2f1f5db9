"""One layer of a pass over a trie, for all nodes at once and samples of one layout."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opsearch.measure.entry import Entry, Inputs, Pair
from opsearch.measure.nodes import Ints
from opsearch.measure.ragged import equal, spans, starts
from opsearch.measure.square import Square
from opsearch.measure.stack import Stack
from opsearch.measure.states import States
from opsearch.measure.trie import Level, is_square
from opsearch.runtime.heads import project_keys_values, project_queries
from opsearch.upload import upload

# Rows of one call, all samples together, so that an MLP's wide rows are never all held at once.
_ROWS = 2**13


class Step:
    """One layer for all nodes.

    Keys of all nodes are rows of one tensor [R, H, hd]: those of every image's head, then those of
    its visual nodes as far as somebody reads them, then those of every sample's text nodes.
    """

    def __init__(self, layer: Any, level: Level, entry: Entry, orders: Tensor, last: bool) -> None:
        self.layer, self.level, self.entry, self.last = layer, level, entry, last
        self.orders = orders
        # Behind keys and values only the answers' rows go through the last layer.
        self.asking = entry.layout.answers if last else entry.layout.tail

    def advance(self, states: States) -> States:
        """The states after the layer."""
        keys_values = self._keys_values(states)
        text = self._text(states.text, keys_values)
        if self.last:
            return replace(states, head=states.head[:, :0], text=text, visual=states.visual[:, :0])
        head = self._head(states.head, keys_values)
        visual = self._visual(states.visual, keys_values)
        return replace(states, head=head, text=text, visual=visual)

    def _head(self, head: Tensor, keys_values: Pair) -> Tensor:
        if head.shape[1] == 0:
            return head
        places, rows = self.entry.head, np.arange(head.shape[1])[None]
        begin = torch.arange(len(head), device=head.device)[:, None] * head.shape[1]
        at = places[:, None]
        stack = Stack(rows, at, rows, begin.expand_as(places), at, np.zeros(1, np.int64))
        queries = self._queries(self.entry.images, head, places)
        (update,) = stack.attend(self.layer.self_attn, queries, keys_values)
        return self._with_mlp(head + update)

    def _text(self, text: Tensor, keys_values: Pair) -> Tensor:
        level, asking, tail = self.level, self.asking, self.entry.layout.tail
        places, text = self.entry.tail, text.unflatten(1, (level.texts, tail))
        if self.last:
            asked = self.entry.asked
            places = places.gather(1, asked)
            index = asked[:, None, :, None].expand(-1, level.texts, -1, text.shape[-1])
            text = text.gather(2, index)
        text = text.flatten(1, 2)
        queries = self._queries(self.entry.samples, text, places.repeat(1, level.texts))
        before = level.text[:, 1]
        rows, _ = self._spans(before * asking, np.full_like(before, asking))
        result, done = text.index_select(1, rows), 0
        for nodes in equal(level.text, columns=1):
            reading, before, visual = nodes.T
            asked = before[:, None] * asking + np.arange(asking)
            orders, order = self._orders_of(visual)
            ranked = orders[:, :, : int(reading[0])]
            read = self._reading(self.entry.shown, before, tail, visual, ranked)
            stack = Stack(asked, places[:, None], *read, order)
            done = _add(result, done, stack.attend(self.layer.self_attn, queries, keys_values))
        return self._with_mlp(result)

    def _visual(self, visual: Tensor, keys_values: Pair) -> Tensor:
        level = self.level
        before, attention, mlp, rows = level.visual.T
        first = starts(rows)
        kept, _ = self._spans(starts(level.rows)[before], rows)
        result = visual.index_select(1, kept)
        if len(level.attention):
            asked = level.attention[:, 0]
            attending = attention[attention >= 0]
            into, _ = self._spans(first[attention >= 0], asked[attending])
            source, _ = self._spans(starts(asked)[attending], asked[attending])
            updates = self._visual_updates(visual, keys_values)
            result.index_add_(1, into, updates.index_select(1, source))
        into, _ = self._spans(first, mlp)
        for slab in into.split(max(1, _ROWS // len(result))):
            result.index_add_(1, slab, self._mlp(result.index_select(1, slab)))
        return result

    def _visual_updates(self, visual: Tensor, keys_values: Pair) -> Tensor:
        """What attention adds, for each row of level.attention one behind the other."""
        level, inner = self.level, self.entry.layout.inner
        rows, _ = self._spans(starts(level.rows), level.queried)
        taken = visual.index_select(1, rows)
        queries = self._queries(self.entry.images, taken, self._places(level.queried))
        images = np.arange(len(visual))
        total = int(level.attention[:, 0].sum())
        result, done = visual.new_zeros(len(visual), total, visual.shape[-1]), 0
        for nodes in equal(level.attention, columns=2):
            (asking, *_), (reading, *_), node, text = nodes.T
            asked = starts(level.queried)[node, None] + np.arange(asking)
            orders, order = self._orders_of(node)
            ranked = orders[:, :, : int(reading)]
            read, shift, places = self._reading(images, text, inner, node, ranked)
            if read.size:
                at, others = orders[:, :, : int(asking)], self.entry.layout.head + inner
                if is_square(asking, reading, others):
                    stack: Stack | Square = Square(asked, read, shift, places, order)
                else:
                    stack = Stack(asked, at, read, shift, places, order)
                _add(result, done, stack.attend(self.layer.self_attn, queries, keys_values))
            done += asked.size
        return result

    def _reading(
        self, shown: Ints, text: Ints, beside: int, visual: Ints, ranked: Tensor
    ) -> tuple[Ints, Tensor, Tensor]:
        """Rows of the keys that nodes read in a batch whose rows show these images.

        All read the head, `beside` rows of their text node and those of their visual node that
        stand at positions `ranked` int64[G, O, n] in one of O orders: rows int64[N, c], what to add
        for each of the batch int64[B, c], and positions int64[B, O, c].
        """
        entry, level = self.entry, self.level
        head, tail = entry.layout.head, entry.layout.tail
        images, keyed, texts = len(entry.head), int(level.keyed.sum()), level.texts * tail
        visuals_at, texts_at = images * head, images * (head + keyed)
        begin = np.append(starts(level.keyed), 0)
        parts = (
            np.broadcast_to(np.arange(head), (len(text), head)),
            texts_at + text[:, None] * tail + np.arange(beside),
            visuals_at + begin[visual, None] + np.arange(ranked.shape[2]),
        )
        device = ranked.device
        image, sample = upload(shown, device), torch.arange(len(shown), device=device)
        shifts = (image * head, sample * texts, image * keyed)
        shift = [
            s[:, None].expand(-1, part.shape[1]) for s, part in zip(shifts, parts, strict=True)
        ]
        alike = (entry.head[image], entry.tail[: len(shown), :beside])
        places = [at[:, None].expand(-1, ranked.shape[1], -1) for at in alike]
        return (
            np.concatenate(parts, axis=1),
            torch.cat(shift, 1),
            torch.cat([places[0], places[1], ranked[image]], 2),
        )

    def _keys_values(self, states: States) -> Pair:
        """Keys and values of all rows that somebody reads, [R, H_kv, hd]."""
        entry, level = self.entry, self.level
        rows, _ = self._spans(starts(level.rows), level.keyed)
        sources = (
            (entry.images, states.head, entry.head),
            (entry.images, states.visual.index_select(1, rows), self._places(level.keyed)),
            (entry.samples, states.text, entry.tail.repeat(1, level.texts)),
        )
        parts = [self._projected(*source) for source in sources]
        keys, values = (torch.cat(part) for part in zip(*parts, strict=True))
        return keys, values

    def _orders_of(self, visual: Ints) -> tuple[Tensor, Ints]:
        """Distinct orders int64[G, O, N] of these visual nodes, and the number of each node's."""
        found = np.append(self.level.order, 0)[visual]
        distinct, order = np.unique(found, return_inverse=True)
        index = upload(distinct, self.orders.device)
        return self.orders.index_select(1, index), order

    def _places(self, sizes: Ints) -> Tensor:
        """Positions int64[G, R] of the first rows of all visual nodes, so many int64[V] of each."""
        index, _ = self._spans(self.level.order * self.orders.shape[2], sizes)
        return self.orders.flatten(1).index_select(1, index)

    def _projected(self, inputs: Inputs, states: Tensor, places: Tensor) -> Pair:
        """Keys and values [B * R, H_kv, hd] of rows [B, R, D] at these positions."""
        parts = [
            project_keys_values(self.layer.self_attn, normed, cos_sin)
            for normed, cos_sin in self._slabs(inputs, states, places)
        ]
        keys, values = (torch.cat(part, 2) for part in zip(*parts, strict=True))
        return keys.transpose(1, 2).flatten(0, 1), values.transpose(1, 2).flatten(0, 1)

    def _queries(self, inputs: Inputs, states: Tensor, places: Tensor) -> Tensor:
        """[B, R, H, hd] of rows [B, R, D] at these positions."""
        parts = [
            project_queries(self.layer.self_attn, normed, cos_sin).transpose(1, 2)
            for normed, cos_sin in self._slabs(inputs, states, places)
        ]
        return torch.cat(parts, 1)

    def _slabs(
        self, inputs: Inputs, states: Tensor, places: Tensor
    ) -> Iterator[tuple[Tensor, Pair]]:
        """Normed rows and their rotary embeddings, a few rows at a time."""
        step = max(1, _ROWS // len(states))
        for rows, at in zip(states.split(step, 1), places.split(step, 1), strict=True):
            yield self.layer.input_layernorm(rows), inputs.rotary(at)

    def _with_mlp(self, states: Tensor) -> Tensor:
        """The rows with what the MLP adds to each, in place."""
        for rows in states.split(max(1, _ROWS // len(states)), 1):
            rows += self._mlp(rows)
        return states

    def _mlp(self, rows: Tensor) -> Tensor:
        added: Tensor = self.layer.mlp(self.layer.post_attention_layernorm(rows))
        return added

    def _spans(self, first: Ints, sizes: Ints) -> tuple[Tensor, Tensor]:
        return spans(first, sizes, self.entry.order.device)


def _add(states: Tensor, first: int, updates: Iterable[Tensor]) -> int:
    """Add parts [B, r, D], one behind the other from row `first` on; the row behind the last."""
    for update in updates:
        states[:, first : first + update.shape[1]] += update
        first += update.shape[1]
    return first
