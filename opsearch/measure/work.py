"""What one pass over a trie takes, from shapes alone: FLOPs to the integer, memory as a bound.

Rows of the text behind the image count once per sample; visual rows and the text before them once
per image. Of several trees the FLOPs are those of a pass for each, as they share nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from opsearch.costs.ranking import reranking_flops
from opsearch.costs.shape import Shape
from opsearch.measure.nodes import Ints
from opsearch.measure.trie import ONE, Layout, Level, Size, Trie, is_square


def trie_flops(trie: Trie, layout: Layout, shape: Shape, size: Size = ONE) -> int:
    """FLOPs of a pass for each tree by the convention `exact`, two per multiplication and addition.

    The original, which answers are compared with, is not included.
    """
    return sum(layer_flops(trie, layout, shape, size))


def layer_flops(trie: Trie, layout: Layout, shape: Shape, size: Size) -> Iterator[int]:
    """The same layer by layer; the last one's include those of the logits."""
    last = len(trie.levels) - 1
    for index, level in enumerate(trie.levels):
        text = _text_flops(level, layout, shape, index == last)
        visual = _visual_flops(level, layout, shape, trie.trees, index == last)
        looks = _look_flops(trie, level, layout, shape)
        yield size.samples * (text + looks) + trie.images(size) * visual


def _text_flops(level: Level, layout: Layout, shape: Shape, last: bool) -> int:
    """Of one sample; in the last layer only the answers' rows go on behind keys and values."""
    rows = layout.answers if last else layout.tail
    after = rows * len(level.text)
    pairs = rows * int((level.text[:, 0] + layout.head + layout.tail).sum())
    queries, keys = level.texts * rows, level.texts * layout.tail
    logits = 2 * shape.hidden * shape.vocab * after if last else 0
    return _flops(shape, queries, keys, pairs, outputs=after, mlp=after) + logits


def _visual_flops(level: Level, layout: Layout, shape: Shape, trees: int, last: bool) -> int:
    """Of one image with the text before it, of which the last layer needs keys and values alone."""
    head = 0 if last else trees * layout.head
    queries, keys = head + int(level.queried.sum()), trees * layout.head + int(level.keyed.sum())
    asking, reading = level.attention[:, 0], level.attention[:, 1]
    others = layout.head + layout.inner
    columns = reading + others
    # Where the call is square, those that are only read ask as well.
    called = np.where(is_square(asking, reading, others), columns, asking)
    pairs = head * layout.head + int((called * columns).sum())
    outputs = head + int(asking[columns > 0].sum())
    mlp = head + int(level.visual[:, 2].sum())
    return _flops(shape, queries, keys, pairs, outputs, mlp)


def _look_flops(trie: Trie, level: Level, layout: Layout, shape: Shape) -> int:
    """Of rankers inside the decoder that look at the layer, on one sample."""
    other = layout.head + layout.behind
    return sum(
        reranking_flops(trie.rankers[ranker], pool, layout.n_visual, other, shape)
        for ranker, pool in level.pools
    )


def _flops(shape: Shape, queries: int, keys: int, pairs: int, outputs: int, mlp: int) -> int:
    """Of so many rows of each kind, and pairs of a query and a key."""
    total = 2 * shape.hidden * shape.q_width * (queries + outputs) + 4 * shape.q_width * pairs
    total += 4 * shape.hidden * shape.kv_width * keys
    return total + 6 * shape.hidden * shape.intermediate * mlp


def trie_bytes(trie: Trie, layout: Layout, shape: Shape, itemsize: int, size: Size = ONE) -> int:
    """Bytes that one pass holds at its widest."""
    return itemsize * int((held_elements(trie, layout, shape) @ np.array(size)).max())


def held_elements(trie: Trie, layout: Layout, shape: Shape) -> Ints:
    """Numbers held per sample and per image, int64[L + 1, 2].

    A row for each layer, and one for the original's own forward.
    """
    return held(tree_rows(trie), layout, shape, bool(trie.rankers))[:, 0]


def tree_rows(trie: Trie) -> Ints:
    """What bounds the memory of each tree whatever the layout, int64[L, T, 7].

    Text states before and after a layer; visual rows before it, after it, taken out of it and put
    back, projected to queries, and to keys and values.
    """
    text = visual = np.arange(trie.trees)  # the tree of each node
    levels = []
    for level in trie.levels:
        before, turned = visual, np.zeros(trie.trees, np.int64)
        if level.turning is not None:
            entered, look, _ = level.turning.nodes.T
            there = np.bincount(before[entered[look >= 0]], minlength=trie.trees) > 0
            turned = np.where(there, _sums(level.turning.rows, before, trie.trees), 0)
            before = before[entered]
        after, visual = text[level.text[:, 1]], before[level.visual[:, 0]]
        queried, keyed = (_sums(rows, before, trie.trees) for rows in (level.queried, level.keyed))
        asking = _sums(level.attention[:, 0], before[level.attention[:, 2]], trie.trees)
        columns = [
            np.bincount(text, minlength=trie.trees),
            np.bincount(after, minlength=trie.trees),
            _sums(level.rows, before, trie.trees),
            _sums(level.visual[:, 3], visual, trie.trees),
            keyed + queried + asking + turned,
            queried,
            keyed,
        ]
        levels.append(np.stack(columns, axis=1))
        text = after
    return np.stack(levels)


def held(rows: Ints, layout: Layout, shape: Shape, ranked: bool) -> Ints:
    """Numbers held per sample and per image by trees of these `tree_rows`, int64[L + 1, T, 2].

    ranked: by rankers inside the decoder, with which samples share no image.
    """
    before, after, coming, going, taken, queried, keyed = np.moveaxis(rows, 2, 0)
    kept = layout.length * shape.hidden + layout.answers * shape.vocab
    before, after = before * layout.tail, after * layout.tail
    text = kept + _elements(shape, before + after, queries=before, keys=before)
    states = 2 * layout.head + coming + going + taken
    visual = _elements(shape, states, layout.head + queried, layout.head + keyed)
    original = kept + layout.length * (6 * shape.hidden + 2 * shape.intermediate)
    text = np.pad(text, ((0, 1), (0, 0)), constant_values=original)
    visual = np.pad(visual, ((0, 1), (0, 0)))
    return np.stack([text + visual, np.zeros_like(visual)] if ranked else [text, visual], axis=2)


def _elements(shape: Shape, states: Ints, queries: Ints, keys: Ints) -> Ints:
    """Queries, keys and values count twice: they are made in parts and joined."""
    return states * shape.hidden + 2 * queries * shape.q_width + 4 * keys * shape.kv_width


def _sums(values: Ints, trees: Ints, count: int) -> Ints:
    """The sum of the values of each tree, int64[T]; exact below 2^53."""
    return np.bincount(trees, values, count).astype(np.int64)
