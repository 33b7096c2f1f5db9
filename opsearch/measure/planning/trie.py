"""Trie of policies: the states that policies share, so that a pass computes each of them once.

All policies of a trie use one ranking, so the visual tokens that an operation keeps are a prefix of
one order. After each layer, the states of a policy are two nodes:

- A text node: the rows of the text after the image. Its key is (text parent, kv, visual parent),
  since these rows depend on the text before the layer and on the visual keys that they attend to.
- A visual node: the visual rows. Its key is (visual parent, q, mlp), and kv if q > 0. Attention is
  causal, so these rows do not depend on the text after the image.

Here q, kv and mlp are the numbers of visual tokens in the layer's operations. Rows that no later
layer reads do not exist. Example of two layers, where the last one needs visual keys only:

    policy   layer 0 (q kv mlp)   layer 1
      A          3  3  3           0  3  0
      B          3  3  0           0  3  0
      C          0  3  0           0  3  0
      D          0  0  0           0  3  0

    text     T0 --- kv 3 ---> T1 -+- reads V1 ---> leaf A
              |                   +- reads V2 ---> leaf B
              |                   +- reads V3 ---> leaf C
              +---- kv 0 ---> T2 --- reads V3 ---> leaf D

    visual   V0 --- q 3, mlp 3 ---> V1
              +---- q 3, mlp 0 ---> V2   (shares the attention of V1)
              +---- q 0, mlp 0 ---> V3

Text and visual nodes branch independently: A, B and C share T1, and C and D share V3. The sweep
(`sweep/passes.py`, `sweep/layer.py`) computes all nodes of a layer before those of the next one,
and stacks nodes of equal counts along the batch of one attention call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from opsearch.costs.exact import packed
from opsearch.measure.layout import Ints, Size
from opsearch.policy.counts import KV, MLP, Counts, Q
from opsearch.policy.schedule import RerankingTable
from opsearch.rankers import make_decoder_ranker
from opsearch.rankers.base import DecoderRanker

# One extra query in at least this number of rows costs less than a mask.
_MIN_QUERIES_PER_OTHER = 8


def numbered(*columns: Ints, where: NDArray[np.bool_] | None = None) -> tuple[Ints, Ints]:
    """Return the distinct rows of these columns, sorted, and each row's number among them.

    Rows outside `where` have number -1.
    """
    wanted = np.ones(len(columns[0]), np.bool_) if where is None else where
    table = np.stack(columns, axis=1)[wanted]
    # One integer per row sorts much faster.
    _, first, inverse = np.unique(packed(*table.T), return_index=True, return_inverse=True)
    numbers = np.full(len(wanted), -1, np.int64)
    numbers[wanted] = inverse
    return table[first], numbers


def largest(values: Ints, nodes: Ints, size: int) -> Ints:
    """Return the largest value among the policies of each node, int64[size]; node -1 is ignored."""
    result = np.zeros(size, np.int64)
    present = nodes >= 0
    np.maximum.at(result, nodes[present], values[present])
    return result


@dataclass(frozen=True, eq=False)
class NodeReranking:
    """Reranking of visual nodes between two layers.

    Attributes:
        rows: int64[V], rows of each visual node before the reranking.
        order: int64[V], index of each such node's order.
        views: int64[K, 4] of (ranker, candidates, visual node, text node), attention views whose
            orders apply at once. They are numbered after the views pending from the layer before.
        nodes: int64[W, 3] of (visual node before, view or -1, rows kept), the nodes after it.
        orders: int64[O, 2] of (order before, view or -1), the orders after it.
    """

    rows: Ints
    order: Ints
    views: Ints
    nodes: Ints
    orders: Ints


class RerankingBuilder:
    """Numbering of views, reranked nodes and orders, layer by layer along with `build_trie`.

    Args:
        rerankings: Rerankings of the policies, None without any.
        passing: Visual rows that go through each layer, int64[P, L].
        trees: Visual nodes before the first layer, all in the order from before the decoder.
    """

    def __init__(self, rerankings: RerankingTable | None, passing: Ints, trees: int) -> None:
        self._rerankings, self._passing = rerankings, passing
        self._pending = np.full(len(passing), -1)
        self._order = np.zeros(trees, np.int64)

    def before_layer(
        self, layer: int, text: Ints, visual: Ints, rows: Ints
    ) -> tuple[NodeReranking | None, Ints, Ints]:
        """Return the reranking before a layer, or None, with the visual nodes and rows after it."""
        views, view_of = self._distinct_views(layer, 0, text, visual)
        view = np.where(view_of >= 0, view_of + self._pending.max(initial=-1) + 1, self._pending)
        if (view < 0).all():
            return None, visual, rows
        outgoing = self._passing[:, layer]
        nodes, node_of = numbered(visual, view, where=(visual >= 0) & (outgoing > 0))
        rows_left = largest(outgoing, node_of, len(nodes))
        orders, order = numbered(self._order[nodes[:, 0]], nodes[:, 1])
        reranking = NodeReranking(
            rows, self._order, views, np.column_stack([nodes, rows_left]), orders
        )
        self._order = order
        return reranking, node_of, rows_left

    def views_ahead(self, layer: int, text: Ints, visual: Ints) -> Ints:
        """Return views of a layer, int64[K, 4], whose orders apply from the next layer on."""
        views, self._pending = self._distinct_views(layer + 1, 1, text, visual)
        return views

    def advance(self, before: Ints) -> Ints:
        """Return the orders of the layer's visual nodes and move on to the nodes after it.

        Args:
            before: int64[V], the node before the layer of each node after it.
        """
        order, self._order = self._order, self._order[before]
        return order

    def _distinct_views(self, layer: int, back: int, text: Ints, visual: Ints) -> tuple[Ints, Ints]:
        """Return distinct views of rerankings before a layer, and each policy's view or -1."""
        rerankings = self._rerankings
        if rerankings is None or layer == rerankings.ranker.shape[1]:
            return np.empty((0, 4), np.int64), np.full(len(text), -1)
        ranker, candidates = rerankings.ranker[:, layer], rerankings.candidates[:, layer]
        acting = (ranker >= 0) & (rerankings.back[:, layer] == back)
        return numbered(ranker, candidates, visual, text, where=acting)


def is_square(queries: Ints, visual: Ints, others: int) -> NDArray[np.bool_]:
    """Return where visual rows read themselves and few enough others for a square call.

    Args:
        queries: Rows that have queries.
        visual: Visual rows that are read.
        others: Other rows that are read.
    """
    reads_itself: NDArray[np.bool_] = queries == visual
    return reads_itself & (_MIN_QUERIES_PER_OTHER * others <= queries)


@dataclass(frozen=True, eq=False)
class Level:
    """The nodes after one layer; a node's number is its row in a table.

    Attributes:
        n_texts: Number of text nodes before the layer.
        rows: int64[V], rows of each visual node before the layer.
        reranking: Reranking that makes these nodes, None if there is none.
        views: int64[K, 4], attention views of these nodes whose orders apply from the next layer on
            (columns as in NodeReranking).
        order: int64[V], index of each visual node's order.
        n_queries: int64[V], rows projected to queries.
        n_keys: int64[V], rows projected to keys and values.
        text: int64[N, 3] of (visual tokens read, text node before, visual node before), sorted.
        attention: int64[A, 4] of (q, kv, visual node before, text node before), sorted. The text
            node is 0 unless some text stands between visual tokens.
        visual: int64[M, 4] of (visual node before, attention or -1, mlp, rows that are read later).
    """

    n_texts: int
    rows: Ints
    reranking: NodeReranking | None
    views: Ints
    order: Ints
    n_queries: Ints
    n_keys: Ints
    text: Ints
    attention: Ints
    visual: Ints

    @property
    def incoming(self) -> Ints:
        """Rows of each visual node before reranking, int64[V]."""
        return self.rows if self.reranking is None else self.reranking.rows

    @property
    def view_candidates(self) -> list[tuple[int, int]]:
        """Ranker index and number of candidates of each attention view of the layer."""
        now = [] if self.reranking is None else self.reranking.views.tolist()
        return [(ranker, candidates) for ranker, candidates, *_ in (*now, *self.views.tolist())]


@dataclass(frozen=True, eq=False)
class Trie:
    """The nodes of all layers.

    Attributes:
        levels: The nodes after each layer.
        leaf: int64[P], text node of each policy after the last layer.
        rankers: Rankers inside the decoder, indexed by views.
        trees: Number of trees that share nothing; more than one only to count their work.
    """

    levels: tuple[Level, ...]
    leaf: Ints
    rankers: tuple[DecoderRanker, ...] = ()
    trees: int = 1

    def images(self, size: Size) -> int:
        """Return how many images have visual rows of their own; decoder rankers share none."""
        return size.samples if self.rankers else size.images

    def nodes(self, size: Size) -> int:
        """Return the number of node states, one per sample (text) or per image (visual)."""
        return sum(
            size.samples * len(level.text) + self.images(size) * len(level.visual)
            for level in self.levels
        )


def build_trie(
    counts: Counts,
    coupled: bool,
    rerankings: RerankingTable | None = None,
    roots: Ints | None = None,
) -> Trie:
    """Build the trie of policies.

    Args:
        counts: Live counts int64[P, L, 3].
        coupled: Some text stands between visual tokens, so that visual rows depend on text nodes.
        rerankings: Rerankings inside the decoder, None without any.
        roots: int64[P], index of each policy's tree, from 0; None for one tree.
    """
    passing, incoming = _widths(counts, rerankings)
    text = np.zeros(len(counts), np.int64) if roots is None else roots
    trees = int(text.max()) + 1
    visual = np.where(incoming[:, 0] > 0, text, -1)
    nodes = _PolicyNodes(text, visual, largest(incoming[:, 0], visual, trees))
    builder = RerankingBuilder(rerankings, passing, trees)
    levels = []
    for layer in range(counts.shape[1]):
        level, nodes = _next_level(
            nodes, layer, counts[:, layer], incoming[:, layer + 1], coupled, builder
        )
        levels.append(level)
    rankers = tuple(map(make_decoder_ranker, rerankings.specs)) if rerankings else ()
    return Trie(tuple(levels), nodes.text, rankers, trees)


class _PolicyNodes(NamedTuple):
    """Nodes of P policies between two layers.

    Attributes:
        text: int64[P], text node of each policy.
        visual: int64[P], visual node of each policy, -1 if no later layer reads it.
        rows: int64[V], rows of each visual node.
    """

    text: Ints
    visual: Ints
    rows: Ints


def _next_level(
    before: _PolicyNodes,
    layer: int,
    counts: Ints,
    read_later: Ints,
    coupled: bool,
    builder: RerankingBuilder,
) -> tuple[Level, _PolicyNodes]:
    """Return the nodes after a layer, and those of each policy.

    Args:
        before: The nodes before the layer.
        layer: The layer.
        counts: Live counts of the layer, int64[P, 3].
        read_later: Visual rows that later layers read, int64[P].
        coupled: Some text stands between visual tokens.
        builder: Numbers the rerankings.
    """
    text = before.text
    reranking, visual, rows = builder.before_layer(layer, text, before.visual, before.rows)
    views = builder.views_ahead(layer, text, visual)
    q, kv, mlp = (counts[:, module] for module in (Q, KV, MLP))
    read, text_after = numbered(kv, text, np.where(kv > 0, visual, -1))
    text_seen = text if coupled else np.zeros_like(text)
    attention, attention_of = numbered(q, kv, visual, text_seen, where=q > 0)
    distinct, visual_after = numbered(visual, attention_of, mlp, where=read_later > 0)
    rows_left = largest(read_later, visual_after, len(distinct))
    level = Level(
        n_texts=int(text.max()) + 1,
        rows=rows,
        reranking=reranking,
        views=views,
        order=builder.advance(distinct[:, 0]),
        n_queries=largest(q, visual, len(rows)),
        n_keys=largest(kv, visual, len(rows)),
        text=read,
        attention=attention,
        visual=np.column_stack([distinct, rows_left]),
    )
    return level, _PolicyNodes(text_after, visual_after, rows_left)


def _widths(counts: Counts, rerankings: RerankingTable | None) -> tuple[Ints, Ints]:
    """Return visual rows through each layer, int64[P, L], and before it, int64[P, L + 1].

    All candidates of a ranker exist before the layer.
    """
    needed = (
        counts[:, :, KV]
        if rerankings is None
        else np.maximum(counts[:, :, KV], rerankings.candidates)
    )
    incoming = np.maximum.accumulate(needed[:, ::-1], axis=1)[:, ::-1]
    incoming = np.concatenate([incoming, np.zeros_like(incoming[:, :1])], axis=1)
    return np.maximum(counts[:, :, KV], incoming[:, 1:]), incoming
