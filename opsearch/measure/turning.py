"""Where rankers inside the decoder make nodes of a trie part: an order is made from a node.

What such a ranker sees is the state of a text and of a visual node, so all policies that share
these share its look and its order. Visual nodes that are ordered anew are nodes of their own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from opsearch.measure.nodes import Ints, largest, numbered
from opsearch.turns import Turns


@dataclass(frozen=True, eq=False)
class Turning:
    """What rankers do between two layers.

    rows, order: int64[V], rows of each visual node that comes, and the number of its order. looks:
    int64[K, 4] of (ranker, pool, visual node that comes, text node), whose orders hold at once;
    they are numbered behind those that the layer before left. nodes: int64[W, 3] of (visual node
    that comes, look or -1, rows that go on). orders: int64[O, 2] of (order before, look or -1).
    """

    rows: Ints
    order: Ints
    looks: Ints
    nodes: Ints
    orders: Ints


class Turner:
    """Goes through the layers with `build_trie` and numbers looks, turned nodes and orders.

    trees: visual nodes before the first layer, all in the order from before the decoder.
    """

    def __init__(self, turns: Turns | None, entering: Ints, trees: int) -> None:
        self._turns, self._entering = turns, entering
        self._waiting = np.full(len(entering), -1)
        self._order = np.zeros(trees, np.int64)

    def turn(
        self, layer: int, text: Ints, visual: Ints, rows: Ints
    ) -> tuple[Turning | None, Ints, Ints]:
        """What happens before a layer, None for nothing; visual nodes and rows that go on."""
        looks, looked = self._looks(layer, 0, text, visual)
        look = np.where(looked >= 0, looked + self._waiting.max(initial=-1) + 1, self._waiting)
        if (look < 0).all():
            return None, visual, rows
        going = self._entering[:, layer]
        nodes, entered = numbered(visual, look, where=(visual >= 0) & (going > 0))
        left = largest(going, entered, len(nodes))
        orders, order = numbered(self._order[nodes[:, 0]], nodes[:, 1])
        turning = Turning(rows, self._order, looks, np.column_stack([nodes, left]), orders)
        self._order = order
        return turning, entered, left

    def ahead(self, layer: int, text: Ints, visual: Ints) -> Ints:
        """Looks at a layer, int64[K, 4], whose orders hold from the next one on."""
        looks, self._waiting = self._looks(layer + 1, 1, text, visual)
        return looks

    def go_on(self, before: Ints) -> Ints:
        """The layer's visual nodes' orders; those after it come from nodes `before` int64[V]."""
        order, self._order = self._order, self._order[before]
        return order

    def _looks(self, layer: int, back: int, text: Ints, visual: Ints) -> tuple[Ints, Ints]:
        """Distinct looks of turns before a layer, and the number of each policy's, -1 for none."""
        turns = self._turns
        if turns is None or layer == turns.ranker.shape[1]:
            return np.empty((0, 4), np.int64), np.full(len(text), -1)
        ranker, pool = turns.ranker[:, layer], turns.pool[:, layer]
        now = (ranker >= 0) & (turns.back[:, layer] == back)
        return numbered(ranker, pool, visual, text, where=now)
