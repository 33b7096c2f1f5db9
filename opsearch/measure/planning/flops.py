"""FLOPs and memory of a pass over a trie, from shapes alone; FLOPs are exact, memory is a bound.

Text rows after the image count once per sample; visual rows and the text before them once per
image. Trees of one trie share nothing: their FLOPs are the sum of one pass per tree.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from opsearch.costs.rankings import reranking_flops
from opsearch.costs.shape import Shape
from opsearch.measure.layout import ONE, Ints, Layout, Size
from opsearch.measure.planning.trie import Level, Trie, is_square


def trie_flops(trie: Trie, layout: Layout, shape: Shape, size: Size = ONE) -> int:
    """Return the FLOPs of one pass per tree by the convention `exact` (two per multiply-add).

    The original's own forward is not included.
    """
    return sum(layer_flops(trie, layout, shape, size))


def layer_flops(trie: Trie, layout: Layout, shape: Shape, size: Size) -> Iterator[int]:
    """Yield the FLOPs of each layer; the last one includes the logits."""
    last = len(trie.levels) - 1
    for index, level in enumerate(trie.levels):
        text = _text_flops(level, layout, shape, index == last)
        visual = _visual_flops(level, layout, shape, trie.trees, index == last)
        ranking = _ranker_flops(trie, level, layout, shape)
        yield size.samples * (text + ranking) + trie.images(size) * visual


def _text_flops(level: Level, layout: Layout, shape: Shape, last: bool) -> int:
    """Return the FLOPs of text rows on one sample.

    After keys and values, only answer rows go through the last layer.
    """
    rows = layout.answers if last else layout.tail
    after = rows * len(level.text)
    pairs = rows * int((level.text[:, 0] + layout.head + layout.tail).sum())
    queries, keys = level.n_texts * rows, level.n_texts * layout.tail
    logits = 2 * shape.hidden * shape.vocab * after if last else 0
    return _flops(shape, queries, keys, pairs, outputs=after, mlp=after) + logits


def _visual_flops(level: Level, layout: Layout, shape: Shape, trees: int, last: bool) -> int:
    """Return the FLOPs of visual rows and the text before them on one image.

    The last layer needs only their keys and values.
    """
    head = 0 if last else trees * layout.head
    queries, keys = head + int(level.n_queries.sum()), trees * layout.head + int(level.n_keys.sum())
    queries_per_node, keys_per_node = level.attention[:, 0], level.attention[:, 1]
    other_keys = layout.head + layout.inner
    columns = keys_per_node + other_keys
    # In a square call, rows that are only read have queries too.
    queries_in_call = np.where(
        is_square(queries_per_node, keys_per_node, other_keys), columns, queries_per_node
    )
    pairs = head * layout.head + int((queries_in_call * columns).sum())
    outputs = head + int(queries_per_node[columns > 0].sum())
    mlp = head + int(level.visual[:, 2].sum())
    return _flops(shape, queries, keys, pairs, outputs, mlp)


def _ranker_flops(trie: Trie, level: Level, layout: Layout, shape: Shape) -> int:
    """Return the FLOPs of rankers inside the decoder that read this layer, on one sample."""
    other = layout.head + layout.prompt_tail
    return sum(
        reranking_flops(trie.rankers[ranker], candidates, layout.n_visual, other, shape)
        for ranker, candidates in level.view_candidates
    )


def _flops(shape: Shape, queries: int, keys: int, pairs: int, outputs: int, mlp: int) -> int:
    """Return the FLOPs of the given numbers of rows, and of pairs of a query and a key."""
    total = 2 * shape.hidden * shape.q_width * (queries + outputs) + 4 * shape.q_width * pairs
    total += 4 * shape.hidden * shape.kv_width * keys
    return total + shape.hidden * (6 * shape.intermediate + 2 * shape.router) * mlp


def held_elements(trie: Trie, layout: Layout, shape: Shape) -> Ints:
    """Return the elements held per sample and per image, int64[L + 1, 2].

    One row per layer, and a last one for the original's own forward.
    """
    return elements_of_rows(tree_rows(trie), layout, shape, bool(trie.rankers))[:, 0]


def tree_rows(trie: Trie) -> Ints:
    """Return the rows that bound the memory of each tree in any layout, int64[L, T, 7].

    Columns: text nodes before and after the layer; visual rows before it, after it, gathered in it
    (to attend and to reorder), projected to queries, and projected to keys and values.
    """
    text = visual = np.arange(trie.trees)  # the tree of each node
    levels = []
    for level in trie.levels:
        before, reranked = visual, np.zeros(trie.trees, np.int64)
        if level.reranking is not None:
            node_before, view, _ = level.reranking.nodes.T
            ordered = np.bincount(before[node_before[view >= 0]], minlength=trie.trees) > 0
            reranked = np.where(ordered, _sum_by_tree(level.reranking.rows, before, trie.trees), 0)
            before = before[node_before]
        after, visual = text[level.text[:, 1]], before[level.visual[:, 0]]
        n_queries, n_keys = (
            _sum_by_tree(rows, before, trie.trees) for rows in (level.n_queries, level.n_keys)
        )
        queries_per_node = _sum_by_tree(
            level.attention[:, 0], before[level.attention[:, 2]], trie.trees
        )
        columns = [
            np.bincount(text, minlength=trie.trees),
            np.bincount(after, minlength=trie.trees),
            _sum_by_tree(level.rows, before, trie.trees),
            _sum_by_tree(level.visual[:, 3], visual, trie.trees),
            n_keys + n_queries + queries_per_node + reranked,
            n_queries,
            n_keys,
        ]
        levels.append(np.stack(columns, axis=1))
        text = after
    return np.stack(levels)


def elements_of_rows(rows: Ints, layout: Layout, shape: Shape, ranked: bool) -> Ints:
    """Return the elements held per sample and per image by each tree, int64[L + 1, T, 2].

    Args:
        rows: Result of `tree_rows`.
        layout: Token layout.
        shape: Shape of the decoder.
        ranked: Rankers act inside the decoder, so that samples share no image.
    """
    before, after, incoming, outgoing, gathered, n_queries, n_keys = np.moveaxis(rows, 2, 0)
    kept = layout.length * shape.hidden + layout.answers * shape.vocab
    before, after = before * layout.tail, after * layout.tail
    text = kept + _elements(shape, before + after, queries=before, keys=before)
    states = 2 * layout.head + incoming + outgoing + gathered
    visual = _elements(shape, states, layout.head + n_queries, layout.head + n_keys)
    original = kept + layout.length * (6 * shape.hidden + 2 * shape.intermediate)
    text = np.pad(text, ((0, 1), (0, 0)), constant_values=original)
    visual = np.pad(visual, ((0, 1), (0, 0)))
    return np.stack([text + visual, np.zeros_like(visual)] if ranked else [text, visual], axis=2)


def _elements(shape: Shape, states: Ints, queries: Ints, keys: Ints) -> Ints:
    """Return the elements of states, queries, keys and values.

    The latter three count twice: they are computed in parts and then concatenated.
    """
    return states * shape.hidden + 2 * queries * shape.q_width + 4 * keys * shape.kv_width


def _sum_by_tree(values: Ints, trees: Ints, count: int) -> Ints:
    """Return the sum of the values of each tree, int64[T], exact below 2^53."""
    return np.bincount(trees, values, count).astype(np.int64)
