"""One pass over the layers that computes every node of a trie, for samples of one layout.

All nodes advance together, and only those of the layer in hand are held: their rows lie one behind
the other, [B, R, D]. Of visual rows and the text before them there are G, one batch row for each
image, which all of the B samples that show it read. Visual rows stand in the order of their
ranking, so that what a policy keeps is a prefix. They take their original positions with them,
which give the rotary embeddings and, as nothing looks ahead, the masks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opsearch.measure.entry import Entry, Inputs, Pair
from opsearch.measure.ragged import equal, spans, starts
from opsearch.measure.stack import Stack
from opsearch.measure.trie import Ints, Level, Trie
from opsearch.runtime.heads import project_keys_values, project_queries

# Rows of one call, all samples together, so that an MLP's wide rows are never all held at once.
_ROWS = 2**13


@dataclass(frozen=True, eq=False)
class _States:
    """Hidden states between layers: [G, head, D], [B, texts * tail, D], [G, all visual rows, D]."""

    head: Tensor
    text: Tensor
    visual: Tensor


def sweep(layers: Any, trie: Trie, entry: Entry, done: Callable[[int], None]) -> Tensor:
    """States of the answers' rows of all leaves, [B, leaves, answers, D], before the last norm.

    done: told the number of each layer when it is computed.
    """
    kept = entry.order[:, : int(trie.levels[0].rows[0])]
    head, visual = (entry.images.rows(places) for places in (entry.head, kept))
    states = _States(head, entry.samples.rows(entry.tail), visual)
    for number, (layer, level) in enumerate(zip(layers, trie.levels, strict=True)):
        states = _Step(layer, level, entry, level is trie.levels[-1]).advance(states)
        done(number)
    answers: Tensor = states.text.unflatten(1, (-1, entry.layout.answers))
    return answers


class _Step:
    """One layer for all nodes.

    Keys of all nodes are rows of one tensor [R, H, hd]: those of every image's head, then those of
    its visual nodes as far as somebody reads them, then those of every sample's text nodes.
    """

    def __init__(self, layer: Any, level: Level, entry: Entry, last: bool) -> None:
        self.layer, self.level, self.entry, self.last = layer, level, entry, last
        # Behind keys and values only the answers' rows go through the last layer.
        self.asking = entry.layout.answers if last else entry.layout.tail

    def advance(self, states: _States) -> _States:
        """The states after the layer."""
        keys_values = self._keys_values(states)
        text = self._text(states.text, keys_values)
        if self.last:
            return _States(states.head[:, :0], text, states.visual[:, :0])
        head = self._head(states.head, keys_values)
        return _States(head, text, self._visual(states.visual, keys_values))

    def _head(self, head: Tensor, keys_values: Pair) -> Tensor:
        if head.shape[1] == 0:
            return head
        places, rows = self.entry.head, np.arange(head.shape[1])[None]
        begin = torch.arange(len(head), device=head.device)[:, None] * head.shape[1]
        stack = Stack(rows, places, rows, begin.expand_as(places), places)
        queries = self._queries(self.entry.images, head, places)
        (update,) = stack.attend(self.layer.self_attn, queries, keys_values)
        return self._with_mlp(head + update)

    def _text(self, text: Tensor, keys_values: Pair) -> Tensor:
        level, asking, tail = self.level, self.asking, self.entry.layout.tail
        places = self.entry.tail[:, -asking:]
        text = text.unflatten(1, (level.texts, tail))[:, :, -asking:].flatten(1, 2)
        queries = self._queries(self.entry.samples, text, places.repeat(1, level.texts))
        before = level.text[:, 1]
        rows, _ = self._spans(before * asking, np.full_like(before, asking))
        result, done = text.index_select(1, rows), 0
        for nodes in equal(level.text, columns=1):
            reading, before, visual = nodes.T
            asked = before[:, None] * asking + np.arange(asking)
            read = self._reading(self.entry.shown, before, tail, visual, int(reading[0]))
            stack = Stack(asked, places, *read)
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
        level, order, inner = self.level, self.entry.order, self.entry.layout.inner
        rows, ranks = self._spans(starts(level.rows), level.queried)
        taken = visual.index_select(1, rows)
        queries = self._queries(self.entry.images, taken, order[:, ranks])
        images = np.arange(len(order))
        total = int(level.attention[:, 0].sum())
        result, done = visual.new_zeros(len(visual), total, visual.shape[-1]), 0
        for nodes in equal(level.attention, columns=2):
            (asking, *_), (reading, *_), node, text = nodes.T
            asked = starts(level.queried)[node, None] + np.arange(asking)
            read, *where = self._reading(images, text, inner, node, int(reading))
            if read.size:
                stack = Stack(asked, order[:, :asking], read, *where)
                _add(result, done, stack.attend(self.layer.self_attn, queries, keys_values))
            done += asked.size
        return result

    def _reading(
        self, shown: Ints, text: Ints, beside: int, visual: Ints, ranked: int
    ) -> tuple[Ints, Tensor, Tensor]:
        """Rows of the keys that nodes read in a batch whose rows show these images.

        All read the head, `beside` rows of their text node and `ranked` ones of their visual node:
        rows int64[N, c], what to add for each of the batch int64[B, c], and positions int64[B, c].
        """
        entry, level = self.entry, self.level
        head, tail = entry.layout.head, entry.layout.tail
        images, keyed, texts = len(entry.head), int(level.keyed.sum()), level.texts * tail
        visuals_at, texts_at = images * head, images * (head + keyed)
        begin = np.append(starts(level.keyed), 0)
        parts = (
            np.broadcast_to(np.arange(head), (len(text), head)),
            texts_at + text[:, None] * tail + np.arange(beside),
            visuals_at + begin[visual, None] + np.arange(ranked),
        )
        device = entry.order.device
        image, sample = torch.from_numpy(shown).to(device), torch.arange(len(shown), device=device)
        shifts = (image * head, sample * texts, image * keyed)
        shift = [
            s[:, None].expand(-1, part.shape[1]) for s, part in zip(shifts, parts, strict=True)
        ]
        places = (entry.head[image], entry.tail[: len(shown), :beside], entry.order[image, :ranked])
        return np.concatenate(parts, axis=1), torch.cat(shift, 1), torch.cat(places, 1)

    def _keys_values(self, states: _States) -> Pair:
        """Keys and values of all rows that somebody reads, [R, H_kv, hd]."""
        entry, level = self.entry, self.level
        rows, ranks = self._spans(starts(level.rows), level.keyed)
        sources = (
            (entry.images, states.head, entry.head),
            (entry.images, states.visual.index_select(1, rows), entry.order[:, ranks]),
            (entry.samples, states.text, entry.tail.repeat(1, level.texts)),
        )
        parts = [self._projected(*source) for source in sources]
        keys, values = (torch.cat(part) for part in zip(*parts, strict=True))
        return keys, values

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
