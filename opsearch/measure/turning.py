"""Rerankings inside the decoder as nodes of a trie.

A ranker inside the decoder depends on the states of one text node and one visual node. All policies
that share both nodes share the attention view and its order. Reordered visual nodes are new nodes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from opsearch.measure.nodes import Ints, largest, numbered
from opsearch.policy.schedule import Turns


@dataclass(frozen=True, eq=False)
class NodeReranking:
    """Reranking of visual nodes between two layers.

    Attributes:
        rows: int64[V], rows of each visual node before the reranking.
        order: int64[V], index of each such node's order.
        views: int64[K, 4] of (ranker, pool, visual node, text node), attention views whose orders
            apply at once. They are numbered after the views pending from the layer before.
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

    def __init__(self, rerankings: Turns | None, passing: Ints, trees: int) -> None:
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
        ranker, pool = rerankings.ranker[:, layer], rerankings.pool[:, layer]
        acting = (ranker >= 0) & (rerankings.back[:, layer] == back)
        return numbered(ranker, pool, visual, text, where=acting)
