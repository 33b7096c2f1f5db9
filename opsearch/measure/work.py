"""What one pass over a trie takes, from shapes alone: FLOPs to the integer, memory as a bound.

Rows of the text behind the image count once per sample; visual rows and the text before them once
per image.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from opsearch.costs.ranking import look_flops
from opsearch.costs.shape import Shape
from opsearch.measure.nodes import Ints
from opsearch.measure.trie import ONE, Layout, Level, Size, Trie, is_square


def trie_flops(trie: Trie, layout: Layout, shape: Shape, size: Size = ONE) -> int:
    """FLOPs of one pass by the convention `exact`, two per multiplication and addition.

    The original, which answers are compared with, is not included.
    """
    return sum(layer_flops(trie, layout, shape, size))


def layer_flops(trie: Trie, layout: Layout, shape: Shape, size: Size) -> Iterator[int]:
    """The same layer by layer; the last one's include those of the logits."""
    last = len(trie.levels) - 1
    for index, level in enumerate(trie.levels):
        text = _text_flops(level, layout, shape, index == last)
        visual = _visual_flops(level, layout, shape, index == last)
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


def _visual_flops(level: Level, layout: Layout, shape: Shape, last: bool) -> int:
    """Of one image with the text before it, of which the last layer needs keys and values alone."""
    head = 0 if last else layout.head
    queries, keys = head + int(level.queried.sum()), layout.head + int(level.keyed.sum())
    asking, reading = level.attention[:, 0], level.attention[:, 1]
    others = layout.head + layout.inner
    columns = reading + others
    # Where the call is square, those that are only read ask as well.
    called = np.where(is_square(asking, reading, others), columns, asking)
    pairs = head * head + int((called * columns).sum())
    outputs = head + int(asking[columns > 0].sum())
    mlp = head + int(level.visual[:, 2].sum())
    return _flops(shape, queries, keys, pairs, outputs, mlp)


def _look_flops(trie: Trie, level: Level, layout: Layout, shape: Shape) -> int:
    """Of rankers inside the decoder that look at the layer, on one sample."""
    other = layout.head + layout.behind
    return sum(
        look_flops(trie.rankers[ranker], pool, layout.n_visual, other, shape)
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
    kept = layout.length * shape.hidden + layout.answers * shape.vocab
    rows = [
        (kept + _text_elements(at, layout, shape), _visual_elements(at, layout, shape))
        for at in trie.levels
    ]
    rows.append((kept + layout.length * (6 * shape.hidden + 2 * shape.intermediate), 0))
    return np.array([(a + b, 0) for a, b in rows] if trie.rankers else rows)


def _text_elements(level: Level, layout: Layout, shape: Shape) -> int:
    """States before and after a layer, and what stands between them.

    Queries, keys and values count twice: they are made in parts and joined.
    """
    before, after = level.texts * layout.tail, len(level.text) * layout.tail
    return _elements(shape, before + after, queries=before, keys=before)


def _visual_elements(level: Level, layout: Layout, shape: Shape) -> int:
    """The same of visual rows, parts of which are taken out and put back."""
    queried, keyed = int(level.queried.sum()), int(level.keyed.sum())
    before, after = int(level.rows.sum()), int(level.visual[:, 3].sum())
    taken = keyed + queried + int(level.attention[:, 0].sum())
    if level.turning is not None:
        taken += int(level.turning.rows.sum())
    states = 2 * layout.head + before + after + taken
    return _elements(shape, states, layout.head + queried, layout.head + keyed)


def _elements(shape: Shape, states: int, queries: int, keys: int) -> int:
    return states * shape.hidden + 2 * queries * shape.q_width + 4 * keys * shape.kv_width
