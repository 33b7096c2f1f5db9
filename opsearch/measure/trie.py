"""What a set of policies has in common, layer by layer, so that nothing is computed twice.

A policy's text rows after a layer depend on the text before it and on the visual keys that it
reads; its visual rows depend on their own past and on q, kv and mlp of the layer, and on no text
behind the image. So the policies' states form a trie with two kinds of nodes that grow apart: many
visual pasts end in few states of the text, and rows that nobody reads later do not exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from opsearch.policy import KV, MLP, Counts, Q

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """Where the tokens of a sample stand, answer positions included.

    head: other tokens before the first visual one; tail: those after it; inner: how many of the
    tail stand between visual tokens; answers: last rows of the tail whose logits are compared.
    """

    n_visual: int
    head: int
    tail: int
    inner: int
    answers: int

    @classmethod
    def of(cls, visual: NDArray[np.bool_], answers: int) -> Layout:
        """The layout of a prompt with visual tokens where bool[S], before `answers` - 1 others."""
        (places,) = visual.nonzero()
        first, last = int(places[0]), int(places[-1])
        inner = last + 1 - first - len(places)
        return cls(
            len(places), first, len(visual) - first - len(places) + answers - 1, inner, answers
        )

    @property
    def length(self) -> int:
        """Positions of the whole sample."""
        return self.head + self.tail + self.n_visual


class Size(NamedTuple):
    """How many samples are measured together, and how many different images they show."""

    samples: int
    images: int


ONE = Size(1, 1)


@dataclass(frozen=True, eq=False)
class Level:
    """The nodes after one layer, each by what it is computed from; a node's number is its row.

    texts: number of text nodes before the layer; rows: int64[V], rows of each visual node before.
    queried, keyed: int64[V], how many of these rows are projected to queries, to keys and values.
    text: int64[N, 3] of (visual tokens read, text node before, visual node before), by tokens read.
    attention: int64[A, 4] of (q, kv, visual node before, text node before), by q and kv; the text
        matters only where some of it stands between visual tokens.
    visual: int64[M, 4] of (visual node before, attention or -1, mlp, rows that are read later).
    """

    texts: int
    rows: Ints
    queried: Ints
    keyed: Ints
    text: Ints
    attention: Ints
    visual: Ints


@dataclass(frozen=True, eq=False)
class Trie:
    """All levels; leaf: int64[P], the text node of each policy after the last layer."""

    levels: tuple[Level, ...]
    leaf: Ints

    def nodes(self, size: Size) -> int:
        """States of text rows, one per sample, or visual rows, one per image, after some layer."""
        return sum(
            size.samples * len(level.text) + size.images * len(level.visual)
            for level in self.levels
        )


def build_trie(counts: Counts, coupled: bool) -> Trie:
    """The trie of policies by their live counts int64[P, L, 3].

    coupled: some text stands between visual tokens, so that visual rows depend on it.
    """
    reading = counts[:, :, KV]
    later = np.maximum.accumulate(reading[:, ::-1], axis=1)[:, ::-1]
    later = np.concatenate([later, np.zeros_like(later[:, :1])], axis=1)
    text = np.zeros(len(counts), np.int64)
    # Number of the visual node, -1 where no later layer reads it.
    visual = np.where(later[:, 0] > 0, 0, -1)
    rows = later[:, :1].max(axis=0)
    levels = []
    for layer in range(counts.shape[1]):
        q, kv, mlp = (counts[:, layer, module] for module in (Q, KV, MLP))
        queried, keyed = _largest(q, visual, len(rows)), _largest(kv, visual, len(rows))
        texts = int(text.max()) + 1
        read, after = _number(kv, text, np.where(kv > 0, visual, -1))
        beside = text if coupled else np.zeros_like(text)
        attention, attended = _number(q, kv, visual, beside, where=q > 0)
        parts, visual = _number(visual, attended, mlp, where=later[:, layer + 1] > 0)
        left = _largest(later[:, layer + 1], visual, len(parts))
        nodes = np.concatenate([parts, left[:, None]], axis=1)
        levels.append(Level(texts, rows, queried, keyed, read, attention, nodes))
        text, rows = after, left
    return Trie(tuple(levels), text)


def _number(*columns: Ints, where: NDArray[np.bool_] | None = None) -> tuple[Ints, Ints]:
    """Distinct rows of these columns in order, and the number of each row, -1 outside `where`."""
    wanted = np.ones(len(columns[0]), np.bool_) if where is None else where
    table = np.stack(columns, axis=1)[wanted]
    # One integer for each row: far quicker to sort than the rows.
    packed = np.zeros(len(table), np.int64)
    for column in table.T:
        packed = packed * (column.max(initial=0) + 2) + column + 1
    _, first, inverse = np.unique(packed, return_index=True, return_inverse=True)
    numbers = np.full(len(wanted), -1, np.int64)
    numbers[wanted] = inverse
    return table[first], numbers


def _largest(values: Ints, nodes: Ints, size: int) -> Ints:
    """The largest value among the policies of each node, int64[size]."""
    result = np.zeros(size, np.int64)
    there = nodes >= 0
    np.maximum.at(result, nodes[there], values[there])
    return result
