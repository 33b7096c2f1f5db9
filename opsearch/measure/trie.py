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

from opsearch.measure.nodes import Ints, largest, numbered
from opsearch.measure.turning import Turner, Turning
from opsearch.policy import KV, MLP, Counts, Q
from opsearch.rankers import make_decoder_ranker
from opsearch.rankers.look import DecoderRanker
from opsearch.turns import Turns


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
    def behind(self) -> int:
        """How many of the tail are of the prompt and not of the answer."""
        return self.tail - self.answers + 1

    @property
    def length(self) -> int:
        """Positions of the whole sample."""
        return self.head + self.tail + self.n_visual


class Size(NamedTuple):
    """How many samples are measured together, and how many different images they show."""

    samples: int
    images: int


ONE = Size(1, 1)

# Asking for one row more in as many takes less than the mask that it spares.
_FEW = 8


def is_square(asking: Ints, visual: Ints, others: int) -> NDArray[np.bool_]:
    """Where visual rows ask that read themselves and `others` so few that these may ask as well."""
    itself: NDArray[np.bool_] = asking == visual
    return itself & (_FEW * others <= asking)


@dataclass(frozen=True, eq=False)
class Level:
    """The nodes after one layer, each by what it is computed from; a node's number is its row.

    texts: number of text nodes before the layer; rows: int64[V], rows of each visual node before.
    turning: how rankers make these of the nodes that come, None where they are the same; looks:
        int64[K, 4], at these nodes, whose orders hold from the next layer on (see Turning).
    order: int64[V], the number of each visual node's order.
    queried, keyed: int64[V], how many of these rows are projected to queries, to keys and values.
    text: int64[N, 3] of (visual tokens read, text node before, visual node before), by tokens read.
    attention: int64[A, 4] of (q, kv, visual node before, text node before), by q and kv; the text
        matters only where some of it stands between visual tokens.
    visual: int64[M, 4] of (visual node before, attention or -1, mlp, rows that are read later).
    """

    texts: int
    rows: Ints
    turning: Turning | None
    looks: Ints
    order: Ints
    queried: Ints
    keyed: Ints
    text: Ints
    attention: Ints
    visual: Ints

    @property
    def coming(self) -> Ints:
        """Rows of each visual node that comes to the layer, int64[V]."""
        return self.rows if self.turning is None else self.turning.rows

    @property
    def pools(self) -> list[tuple[int, int]]:
        """Number of the ranker, and of the tokens that it orders, for each look at the layer."""
        now = [] if self.turning is None else self.turning.looks.tolist()
        return [(ranker, pool) for ranker, pool, *_ in (*now, *self.looks.tolist())]


@dataclass(frozen=True, eq=False)
class Trie:
    """All levels; leaf: int64[P], the text node of each policy after the last layer.

    rankers: those inside the decoder, by their numbers in looks. trees: into how many that share
    nothing the policies fall; one where they are to run, more where only their work is counted.
    """

    levels: tuple[Level, ...]
    leaf: Ints
    rankers: tuple[DecoderRanker, ...] = ()
    trees: int = 1

    def images(self, size: Size) -> int:
        """How many images have visual rows of their own: none is shared where rankers read text."""
        return size.samples if self.rankers else size.images

    def nodes(self, size: Size) -> int:
        """States of text rows, one per sample, or visual rows, one per image, after some layer."""
        return sum(
            size.samples * len(level.text) + self.images(size) * len(level.visual)
            for level in self.levels
        )


def build_trie(
    counts: Counts, coupled: bool, turns: Turns | None = None, roots: Ints | None = None
) -> Trie:
    """The trie of policies by their live counts int64[P, L, 3].

    coupled: some text stands between visual tokens, so that visual rows depend on it; turns: what
    rankers inside the decoder do in these policies, None for nothing; roots: int64[P], the number
    of the tree that each policy is part of, from 0 on, None for one tree.
    """
    entering, coming = _widths(counts, turns)
    text = np.zeros(len(counts), np.int64) if roots is None else roots
    trees = int(text.max()) + 1
    # Number of the visual node, -1 where no later layer reads it.
    visual = np.where(coming[:, 0] > 0, text, -1)
    rows = largest(coming[:, 0], visual, trees)
    turner = Turner(turns, entering, trees)
    levels = []
    for layer in range(counts.shape[1]):
        turning, visual, rows = turner.turn(layer, text, visual, rows)
        looks = turner.ahead(layer, text, visual)
        q, kv, mlp = (counts[:, layer, module] for module in (Q, KV, MLP))
        queried, keyed = largest(q, visual, len(rows)), largest(kv, visual, len(rows))
        texts = int(text.max()) + 1
        read, after = numbered(kv, text, np.where(kv > 0, visual, -1))
        beside = text if coupled else np.zeros_like(text)
        attention, attended = numbered(q, kv, visual, beside, where=q > 0)
        parts, visual = numbered(visual, attended, mlp, where=coming[:, layer + 1] > 0)
        left = largest(coming[:, layer + 1], visual, len(parts))
        nodes = np.column_stack([parts, left])
        order = turner.go_on(parts[:, 0])
        levels.append(
            Level(texts, rows, turning, looks, order, queried, keyed, read, attention, nodes)
        )
        text, rows = after, left
    rankers = tuple(map(make_decoder_ranker, turns.specs)) if turns else ()
    return Trie(tuple(levels), text, rankers, trees)


def _widths(counts: Counts, turns: Turns | None) -> tuple[Ints, Ints]:
    """Visual rows that go through each layer, int64[P, L], and that come to it, int64[P, L + 1].

    All of the latter are there where a ranker orders them.
    """
    needed = counts[:, :, KV] if turns is None else np.maximum(counts[:, :, KV], turns.pool)
    coming = np.maximum.accumulate(needed[:, ::-1], axis=1)[:, ::-1]
    coming = np.concatenate([coming, np.zeros_like(coming[:, :1])], axis=1)
    return np.maximum(counts[:, :, KV], coming[:, 1:]), coming
