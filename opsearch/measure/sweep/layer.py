"""One layer of a sweep, for all nodes of a trie and all samples of a batch.

All nodes advance together, and only the current layer's states are held, with the rows of all nodes
concatenated, [B, R, D]. Visual rows and the text before them have one batch row per image, and all
samples that show an image read its rows. Visual rows are sorted by rank, so that the tokens a
policy keeps are a prefix. Rows keep their original positions for rotary embeddings and causal
masks. A ranker inside the decoder reads the states of one text node and one visual node, so all
policies that share both share its order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from opsearch.measure.layout import Ints
from opsearch.measure.planning.trie import Level, NodeReranking, is_square
from opsearch.measure.sweep.attention import CausalAttention, KeyRows, MaskedAttention
from opsearch.measure.sweep.inputs import DecoderInputs, Embeddings, Pair, States
from opsearch.measure.sweep.visibility import Visibility, sees
from opsearch.models.layers import DecoderLayer
from opsearch.rankers.base import AttentionView, DecoderRanker, ranking_from_scores
from opsearch.rankers.upload import upload

# Rows of one call over all samples, which bounds the wide activations of the MLP.
_ROWS_PER_CALL = 2**13


def row_offsets(sizes: Ints) -> Ints:
    """Return the first row of each node, int64[N]."""
    return np.cumsum(sizes) - sizes


def spans(first: Ints, sizes: Ints, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return rows first[i] .. first[i] + sizes[i] - 1 of all nodes i, and each row's offset."""
    offset = np.arange(int(sizes.sum())) - np.repeat(row_offsets(sizes), sizes)
    rows = np.repeat(first, sizes) + offset
    return upload(rows, device), upload(offset, device)


def equal_runs(table: Ints, columns: int) -> Iterator[Ints]:
    """Yield runs of a sorted table int64[N, K] with equal values in the first columns."""
    changes = np.flatnonzero((np.diff(table[:, :columns], axis=0) != 0).any(axis=1)) + 1
    yield from np.split(table, changes)


def concatenate_rows(sources: Sequence[Sequence[Tensor]]) -> Tensor:
    """Concatenate the rows of several sources, given in slabs [B, r, H, hd], as [R, H, hd]."""
    sizes = [(len(slabs[0]), sum(slab.shape[1] for slab in slabs)) for slabs in sources]
    like = sources[0][0]
    result = like.new_empty(sum(batch * rows for batch, rows in sizes), *like.shape[2:])
    parts = result.split([batch * rows for batch, rows in sizes])
    for slabs, size, part in zip(sources, sizes, parts, strict=True):
        torch.cat(list(slabs), 1, out=part.view(*size, *like.shape[2:]))
    return result


class SweepLayer:
    """One layer for all nodes.

    Keys of all nodes are rows of one tensor [R, H, hd]: the heads of all images, then their visual
    nodes as far as some node reads them, then the text nodes of all samples. Values likewise.

    Args:
        layer: The decoder layer.
        number: Its number.
        level: The nodes after the layer.
        inputs: The decoder's inputs.
        orders: int64[G, O, N], positions of visual tokens in each order.
        last: True for the last layer.
    """

    def __init__(
        self,
        layer: DecoderLayer,
        number: int,
        level: Level,
        inputs: DecoderInputs,
        orders: Tensor,
        last: bool,
    ) -> None:
        self.layer, self.number, self.level, self.inputs = layer, number, level, inputs
        self.orders, self.last = orders, last
        # After keys and values, only answer rows go through the last layer.
        self.text_queries = inputs.layout.answers if last else inputs.layout.tail

    def advance(self, states: States) -> States:
        """Return the states after the layer."""
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
        positions, rows = self.inputs.head, np.arange(head.shape[1])[None]
        start = torch.arange(len(head), device=head.device)[:, None] * head.shape[1]
        at, offset = positions[:, None], start.expand_as(positions)
        attention = MaskedAttention(
            query_rows=rows,
            query_positions=at,
            keys=KeyRows(rows=rows, batch_offset=offset, positions=at),
            order=np.zeros(1, np.int64),
            visibility=self._visibility(self.inputs.images),
        )
        queries = self._queries(self.inputs.images, head, positions)
        (output,) = attention.attend(self.layer.attention, queries, keys_values)
        return self._with_mlp(head, head + self.layer.attention_update(output))

    def _text(self, text: Tensor, keys_values: Pair) -> Tensor:
        level, n_queries, tail = self.level, self.text_queries, self.inputs.layout.tail
        positions, text = self.inputs.tail, text.unflatten(1, (level.n_texts, tail))
        if self.last:
            answers = self.inputs.answer_rows
            positions = positions.gather(1, answers)
            index = answers[:, None, :, None].expand(-1, level.n_texts, -1, text.shape[-1])
            text = text.gather(2, index)
        text = text.flatten(1, 2)
        queries = self._queries(self.inputs.samples, text, positions.repeat(1, level.n_texts))
        before = level.text[:, 1]
        rows, _ = self._row_spans(before * n_queries, np.full_like(before, n_queries))
        states = text.index_select(1, rows)
        result, next_row = states.clone() if self.layer.parallel else states, 0
        for nodes in equal_runs(level.text, columns=1):
            n_keys, before, visual = nodes.T
            query_rows = before[:, None] * n_queries + np.arange(n_queries)
            orders, order = self._orders_of(visual)
            ranked = orders[:, :, : int(n_keys[0])]
            keys = self._keys_read(self.inputs.image_of, before, tail, visual, ranked)
            attention = MaskedAttention(
                query_rows,
                positions[:, None],
                keys,
                order,
                visibility=self._visibility(self.inputs.samples),
            )
            updates = self._updates(attention, queries, keys_values)
            next_row = _add(result, next_row, updates)
        return self._with_mlp(states, result)

    def _visual(self, visual: Tensor, keys_values: Pair) -> Tensor:
        level = self.level
        before, attention, mlp, rows = level.visual.T
        first = row_offsets(rows)
        kept, _ = self._row_spans(row_offsets(level.rows)[before], rows)
        states = visual.index_select(1, kept)
        result = states.clone() if self.layer.parallel else states
        if len(level.attention):
            query_rows = level.attention[:, 0]
            attending = attention[attention >= 0]
            into, _ = self._row_spans(first[attention >= 0], query_rows[attending])
            source, _ = self._row_spans(row_offsets(query_rows)[attending], query_rows[attending])
            updates = self._visual_updates(visual, keys_values)
            result.index_add_(1, into, updates.index_select(1, source))
        into, _ = self._row_spans(first, mlp)
        for slab in into.split(max(1, _ROWS_PER_CALL // len(result))):
            result.index_add_(1, slab, self.layer.mlp_update(states.index_select(1, slab)))
        starts = level.order[before] * self.orders.shape[2]
        positions = self.orders.flatten(1).index_select(1, self._row_spans(starts, rows)[0])
        return self.inputs.images.with_features(self.number, result, positions)

    def _visual_updates(self, visual: Tensor, keys_values: Pair) -> Tensor:
        """Return the attention output of each row of `level.attention`, concatenated."""
        level, inner = self.level, self.inputs.layout.inner
        rows, _ = self._row_spans(row_offsets(level.rows), level.n_queries)
        positions = self._visual_positions(level.n_queries)
        queries = self._queries(self.inputs.images, visual.index_select(1, rows), positions)
        images = np.arange(len(visual))
        total = int(level.attention[:, 0].sum())
        result, next_row = visual.new_zeros(len(visual), total, visual.shape[-1]), 0
        for nodes in equal_runs(level.attention, columns=2):
            (n_queries, *_), (n_keys, *_), node, text = nodes.T
            query_rows = row_offsets(level.n_queries)[node, None] + np.arange(n_queries)
            orders, order = self._orders_of(node)
            ranked = orders[:, :, : int(n_keys)]
            keys = self._keys_read(images, text, inner, node, ranked)
            if keys.rows.size:
                attention: MaskedAttention | CausalAttention
                visibility = self._visibility(self.inputs.images)
                square = is_square(n_queries, n_keys, self.inputs.layout.head + inner)
                if square and visibility is None:
                    attention = CausalAttention(query_rows, keys, order)
                else:
                    queries_at = orders[:, :, : int(n_queries)]
                    attention = MaskedAttention(query_rows, queries_at, keys, order, visibility)
                updates = self._updates(attention, queries, keys_values)
                _add(result, next_row, updates)
            next_row += query_rows.size
        return result

    def _keys_read(
        self, image_of: Ints, text: Ints, n_text: int, visual: Ints, ranked: Tensor
    ) -> KeyRows:
        """Return the key rows that nodes read, for a batch that shows these images.

        Every node reads the head, the first `n_text` rows of its text node and the rows of its
        visual node that stand at positions `ranked` int64[G, O, n] in one of O orders.
        """
        inputs, level = self.inputs, self.level
        head, tail = inputs.layout.head, inputs.layout.tail
        images, n_keys, n_texts = len(inputs.head), int(level.n_keys.sum()), level.n_texts * tail
        visual_start, text_start = images * head, images * (head + n_keys)
        start = np.append(row_offsets(level.n_keys), 0)
        parts = (
            np.broadcast_to(np.arange(head), (len(text), head)),
            text_start + text[:, None] * tail + np.arange(n_text),
            visual_start + start[visual, None] + np.arange(ranked.shape[2]),
        )
        device = ranked.device
        image, sample = upload(image_of, device), torch.arange(len(image_of), device=device)
        offsets = (image * head, sample * n_texts, image * n_keys)
        batch_offset = [
            s[:, None].expand(-1, part.shape[1]) for s, part in zip(offsets, parts, strict=True)
        ]
        text_positions = (inputs.head[image], inputs.tail[: len(image_of), :n_text])
        positions = [
            query_positions[:, None].expand(-1, ranked.shape[1], -1)
            for query_positions in text_positions
        ]
        return KeyRows(
            rows=np.concatenate(parts, axis=1),
            batch_offset=torch.cat(batch_offset, 1),
            positions=torch.cat([*positions, ranked[image]], 2),
        )

    def _keys_values(self, states: States) -> Pair:
        """Return keys and values of all rows that some node reads, [R, H_kv, hd]."""
        inputs, level = self.inputs, self.level
        rows, _ = self._row_spans(row_offsets(level.rows), level.n_keys)
        sources = (
            (inputs.images, states.head, inputs.head),
            (
                inputs.images,
                states.visual.index_select(1, rows),
                self._visual_positions(level.n_keys),
            ),
            (inputs.samples, states.text, inputs.tail.repeat(1, level.n_texts)),
        )
        keys, values = zip(*(self._projected(*source) for source in sources), strict=True)
        return concatenate_rows(keys), concatenate_rows(values)

    def _orders_of(self, visual: Ints) -> tuple[Tensor, Ints]:
        """Return the distinct orders int64[G, O, N] of visual nodes, and the order of each node."""
        node_orders = np.append(self.level.order, 0)[visual]
        distinct, order = np.unique(node_orders, return_inverse=True)
        index = upload(distinct, self.orders.device)
        return self.orders.index_select(1, index), order

    def _visual_positions(self, sizes: Ints) -> Tensor:
        """Return positions int64[G, R] of the first sizes[i] rows of each visual node i."""
        index, _ = self._row_spans(self.level.order * self.orders.shape[2], sizes)
        return self.orders.flatten(1).index_select(1, index)

    def _projected(
        self, embeddings: Embeddings, states: Tensor, positions: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return keys and values of rows [B, R, D], in slabs [B, r, H_kv, hd]."""
        slabs = [
            self.layer.attention.keys_values(normed, cos_sin)
            for normed, cos_sin in self._slabs(embeddings, states, positions)
        ]
        return [k.transpose(1, 2) for k, _ in slabs], [v.transpose(1, 2) for _, v in slabs]

    def _queries(self, embeddings: Embeddings, states: Tensor, positions: Tensor) -> Tensor:
        """Return queries [B, R, H, hd] of rows [B, R, D] at these positions."""
        parts = [
            self.layer.attention.queries(normed, cos_sin).transpose(1, 2)
            for normed, cos_sin in self._slabs(embeddings, states, positions)
        ]
        return torch.cat(parts, 1)

    def _slabs(
        self, embeddings: Embeddings, states: Tensor, positions: Tensor
    ) -> Iterator[tuple[Tensor, Pair]]:
        """Yield normalized rows with their rotary embeddings, a slab of rows at a time."""
        slab_size = max(1, _ROWS_PER_CALL // len(states))
        for rows, query_positions in zip(
            states.split(slab_size, 1), positions.split(slab_size, 1), strict=True
        ):
            cos_sin = embeddings.rotary(self.layer.kind, query_positions)
            yield self.layer.attention_input(rows), cos_sin

    def _updates(
        self, attention: MaskedAttention | CausalAttention, queries: Tensor, keys_values: Pair
    ) -> Iterator[Tensor]:
        """Yield what the attention adds to consecutive rows."""
        for output in attention.attend(self.layer.attention, queries, keys_values):
            yield self.layer.attention_update(output)

    def _visibility(self, embeddings: Embeddings) -> Visibility | None:
        """Return the positions that tokens see in this layer, None if all earlier ones."""
        return embeddings.visibility.get(self.layer.kind)

    def _with_mlp(self, states: Tensor, attended: Tensor) -> Tensor:
        """Add the MLP's output to all rows in place.

        Args:
            states: States before the attention, which parallel layers read.
            attended: States after it.
        """
        size = max(1, _ROWS_PER_CALL // len(attended))
        read = states if self.layer.parallel else attended
        for rows, source in zip(attended.split(size, 1), read.split(size, 1), strict=True):
            rows += self.layer.mlp_update(source)
        return attended

    def _row_spans(self, first: Ints, sizes: Ints) -> tuple[Tensor, Tensor]:
        return spans(first, sizes, self.inputs.order.device)


def _add(states: Tensor, first: int, updates: Iterable[Tensor]) -> int:
    """Add consecutive updates [B, r, D] in place from row `first` on; return the next row."""
    for update in updates:
        states[:, first : first + update.shape[1]] += update
        first += update.shape[1]
    return first


class DecoderRanking:
    """Rankers that read a layer's input; every sample has visual rows of its own."""

    def __init__(
        self, layer: DecoderLayer, rankers: Sequence[DecoderRanker], inputs: DecoderInputs
    ) -> None:
        self.layer, self.rankers, self.inputs = layer, rankers, inputs

    def reranked(self, states: States, reranking: NodeReranking) -> States:
        """Return the states after the rerankings before the layer."""
        current = self.orders(states, reranking.views, reranking.rows, reranking.order)
        orders = [*states.pending, *current]
        before, view, rows_left = reranking.nodes.T
        starts = row_offsets(reranking.rows)[before]
        rows, _ = spans(starts, rows_left, states.visual.device)
        index = rows.repeat(len(states.visual), 1)
        for first, size, start, number in zip(
            row_offsets(rows_left), rows_left, starts, view, strict=True
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
        """Return each view's order of its N candidates, best first.

        Each is int64[B, N], rows in the visual node.

        Args:
            states: States before the layer.
            views: int64[K, 4], see NodeReranking.
            rows: int64[V], rows of each visual node.
            order: int64[V], index of each visual node's order.
        """
        first, orders = row_offsets(rows), []
        for ranker, candidates, node, text in views.tolist():
            visual = states.visual[:, first[node] : first[node] + candidates]
            positions = states.orders[:, order[node], :candidates]
            orders.append(self._order(self.rankers[ranker], states, visual, positions, text))
        return orders

    def _order(
        self, ranker: DecoderRanker, states: States, visual: Tensor, positions: Tensor, text: int
    ) -> Tensor:
        """Return the order of visual rows [B, N, D] at positions int64[B, N]."""
        inputs, prompt = self.inputs, self.inputs.prompt
        head, prompt_tail, tail = inputs.layout.head, inputs.layout.prompt_tail, inputs.layout.tail
        prompt_text = states.text[:, text * tail : text * tail + prompt_tail]
        candidates = slice(head, head + positions.shape[1])
        tail_positions = inputs.tail[:, :prompt_tail]
        normed = self.layer.attention_input(torch.cat([states.head, visual, prompt_text], 1))
        key_positions = torch.cat([inputs.head, positions, tail_positions], 1)
        all_rows = torch.arange(key_positions.shape[1], device=key_positions.device)
        text_rows = torch.cat([all_rows[:head], all_rows[candidates.stop :]])
        query_rows = {"last": all_rows[-1:], "text": text_rows, "all": all_rows}[ranker.query_rows]
        attention, query_positions = self.layer.attention, key_positions[:, query_rows]
        queries, kind = normed[:, query_rows], self.layer.kind
        visibility = inputs.samples.visibility.get(kind)
        view = AttentionView(
            prompt=prompt,
            queries=attention.queries(queries, inputs.samples.rotary(kind, query_positions)),
            query_positions=query_positions,
            query_valid=torch.ones_like(query_positions, dtype=torch.bool),
            keys=attention.keys(normed, inputs.samples.rotary(kind, key_positions)),
            key_positions=key_positions,
            key_valid=torch.ones_like(key_positions, dtype=torch.bool),
            scaling=attention.scaling,
            visible=sees(visibility, query_positions, key_positions),
        )
        scores = ranker.scores(view)[:, candidates]
        by_position = scores.new_zeros(prompt.visual.shape).scatter(1, positions, scores)
        is_candidate = torch.zeros_like(prompt.visual).scatter(1, positions, True)
        rank = ranking_from_scores(by_position, is_candidate).gather(1, positions)
        return rank.argsort(1)


def _reordered(positions: Tensor, order: Tensor | None) -> Tensor:
    """Return positions [B, N] with the first ones permuted by `order` int64[B, M]."""
    if order is None:
        return positions
    return torch.cat([positions.gather(1, order), positions[:, order.shape[1] :]], 1)


def _wide(index: Tensor, states: Tensor) -> Tensor:
    return index[..., None].expand(-1, -1, states.shape[-1])
