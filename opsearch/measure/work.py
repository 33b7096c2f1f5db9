"""What one pass over a trie takes, from shapes alone: FLOPs to the integer, memory as a bound."""

from __future__ import annotations

from collections.abc import Iterator

from opsearch.costs.shape import Shape
from opsearch.measure.trie import Layout, Level, Trie


def trie_flops(trie: Trie, layout: Layout, shape: Shape) -> int:
    """FLOPs for one sample by the convention `exact`, two per multiplication and addition.

    The original, which answers are compared with, is not included.
    """
    return sum(layer_flops(trie, layout, shape))


def layer_flops(trie: Trie, layout: Layout, shape: Shape) -> Iterator[int]:
    """The same layer by layer; the last one's include those of the logits.

    The text before the image is computed once; in the last layer only the answers' rows go on
    behind their keys and values.
    """
    width, last = shape.q_width, len(trie.levels) - 1
    for index, level in enumerate(trie.levels):
        head = layout.head if index < last else 0
        rows = layout.tail if index < last else layout.answers
        queries = head + level.texts * rows + int(level.queried.sum())
        keys = layout.head + level.texts * layout.tail + int(level.keyed.sum())
        attended = level.attention[:, 0]
        columns = level.attention[:, 1] + layout.head + layout.inner
        pairs = head * head + int((attended * columns).sum())
        pairs += rows * int((level.text[:, 0] + layout.head + layout.tail).sum())
        outputs = head + rows * len(level.text) + int(attended[columns > 0].sum())
        mlp = head + rows * len(level.text) + int(level.visual[:, 2].sum())
        total = 2 * shape.hidden * width * (queries + outputs) + 4 * width * pairs
        total += 4 * shape.hidden * shape.kv_width * keys
        total += 6 * shape.hidden * shape.intermediate * mlp
        if index == last:
            total += 2 * shape.hidden * shape.vocab * layout.answers * len(level.text)
        yield total


def trie_bytes(trie: Trie, layout: Layout, shape: Shape, itemsize: int) -> int:
    """Bytes that one sample holds at the widest layer, or in the original's own forward."""
    widest = max(_elements(level, layout, shape) for level in trie.levels)
    original = layout.length * (6 * shape.hidden + 2 * shape.intermediate)
    held = layout.length * shape.hidden + layout.answers * shape.vocab
    return itemsize * (max(widest, original) + held)


def _elements(level: Level, layout: Layout, shape: Shape) -> int:
    """States before and after a layer, and what stands between them.

    Queries, keys and values count twice: they are made in parts and joined.
    """
    before = layout.head + level.texts * layout.tail + int(level.rows.sum())
    after = layout.head + len(level.text) * layout.tail + int(level.visual[:, 3].sum())
    keys = layout.head + level.texts * layout.tail + int(level.keyed.sum())
    queries = layout.head + level.texts * layout.tail + int(level.queried.sum())
    taken = int(level.keyed.sum()) + int(level.queried.sum()) + int(level.attention[:, 0].sum())
    states = (before + after + taken) * shape.hidden
    return states + 2 * queries * shape.q_width + 4 * keys * shape.kv_width
