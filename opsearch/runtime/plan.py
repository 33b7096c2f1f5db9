"""What one prefill computes in each layer: index sets, attention masks and positions.

Built from the resolved counts, up to the layer at which a ranker inside the decoder orders the
tokens anew, and from there on when it has. All layers with equal counts and the same order share
one set, so a DOP policy has at most three.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from opsearch.policy import KV, MLP, Counts, Q
from opsearch.rankers.look import DecoderRanker
from opsearch.rankers.prompt import Prompt, ranking_from_scores
from opsearch.runtime.masks import restricted
from opsearch.runtime.rows import Rows, Within
from opsearch.upload import upload

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Step:
    """The work of one layer; `after` are the rows that this layer's MLP or a later layer needs."""

    q: Rows
    kv: Rows
    q_in_stream: Within
    kv_in_stream: Within
    after: Rows
    after_in_stream: Within
    q_in_after: Within
    mlp_in_after: Within


@dataclass(frozen=True, eq=False)
class BatchTurn:
    """A ranker that orders visual tokens anew before some layer.

    look: the layer whose attention it reads; pools: int64[B], how many tokens of each sample it
    orders, the best so far; 0 leaves the order as it is.
    """

    ranker: DecoderRanker
    look: int
    pools: Counts


class Order(NamedTuple):
    """What the plan of a batch is made from.

    prompt: the batch; rank: int64[B, S], place of each visual token in its sample's ranking, -1
    elsewhere; counts: int64[B, L, 3], visual tokens that each operation processes; turns: by the
    first layer that the new order holds for.
    """

    prompt: Prompt
    rank: Tensor
    counts: Counts
    turns: Mapping[int, BatchTurn]


class Plan:
    """All layers' steps for one batch, as far as the order is known, in `steps`.

    Masks and rotary embeddings are cut once per set.
    """

    def __init__(self, order: Order) -> None:
        self.prompt, self.rank, self.counts, self.turns = order
        self.layers = self.counts.shape[1]
        self.scores: Tensor | None = None  # of the next turn, once its layer was looked at
        self.steps: list[Step] = []
        self._other = self.prompt.real & ~self.prompt.visual
        pools = {layer: turn.pools for layer, turn in self.turns.items()}
        self._entering, self._coming = _widths(self.counts, pools)
        self._forget()
        if 0 not in self.turns:
            self._extend()

    def rows(self, counts: Counts) -> Rows:
        """The other tokens and the first visual ones in today's order, by numbers int64[B]."""
        key = tuple(int(c) for c in counts)
        if key not in self._sets:
            keep = self._other | self._first(counts)
            sizes = [text + count for text, count in zip(self.prompt.n_other, key, strict=True)]
            self._sets[key] = Rows.select(keep, sizes)
        return self._sets[key]

    def go_on(self, layer: int, device: torch.device) -> None:
        """Be on the device of this layer, which is the next."""
        if device != self.rank.device:
            self.move(layer, device)

    def move(self, layer: int, device: torch.device) -> None:
        """Go on from this layer on another device."""
        self.prompt, self.rank = self.prompt.to(device), self.rank.to(device)
        self.scores = None if self.scores is None else self.scores.to(device)
        self._other = self._other.to(device)
        self._forget()
        if layer < len(self.steps):  # else a turn comes first
            del self.steps[layer:]
            self._extend()

    def stream(self, layer: int) -> Rows:
        """The rows that come to a layer, before a turn there."""
        return self.rows(self._coming[:, layer])

    def entered(self, layer: int) -> Rows:
        """The rows that go through a layer, after a turn before it."""
        return self.rows(self._entering[:, layer])

    def turn(self, layer: int) -> Within:
        """Order the pool by `scores` before this layer; where the rows that go on stand so far."""
        assert self.scores is not None
        scores, self.scores = self.scores, None
        before = self.stream(layer)
        pool = self._first(self.turns[layer].pools)
        self.rank = torch.where(pool, ranking_from_scores(scores, pool), self.rank)
        self._forget()
        self._extend()
        return Within.of(self.entered(layer), before)

    def rotary(self, position_embeddings: Pair, rows: Rows) -> Pair:
        """cos and sin of the rows' original positions, [..., B, K, hd]."""
        key = ("rotary", id(rows))
        if key not in self._memo:
            cos, sin = position_embeddings
            self._memo[key] = (rows.gather(cos), rows.gather(sin))
        return self._memo[key]  # type: ignore[return-value]

    def mask(
        self, stock: Tensor | None, q: Rows, kv: Rows, attention: str
    ) -> tuple[Tensor | None, Tensor | None]:
        """The stock attention mask for rows `q` and columns `kv`, see `restricted`."""
        key = ("mask", id(q), id(kv), id(stock))
        if key not in self._memo:
            self._memo[key] = restricted(stock, q, kv, attention)
        return self._memo[key]  # type: ignore[return-value]

    def _first(self, counts: Counts) -> Tensor:
        """The first visual tokens in today's order, by numbers int64[B], bool[B, S]."""
        limit: int | Tensor = int(counts[0])
        if (counts != limit).any():
            limit = upload(counts, self.rank.device)[:, None]
        return self.prompt.visual & (self.rank < limit)

    def _forget(self) -> None:
        """Sets of another order or device are of no use, nor is what was cut for them."""
        self._sets: dict[tuple[int, ...], Rows] = {}
        self._memo: dict[object, object] = {}

    def _extend(self) -> None:
        """The steps up to the next turn."""
        within: dict[tuple[int, int], Within] = {}

        def locate(inner: Rows, stream: Rows) -> Within:
            key = (id(inner), id(stream))
            if key not in within:
                within[key] = Within.of(inner, stream)
            return within[key]

        for layer in range(len(self.steps), self.layers):
            stream = self.entered(layer)
            counts = self.counts[:, layer]
            q, kv, mlp = (self.rows(counts[:, module]) for module in (Q, KV, MLP))
            after = self.rows(np.maximum(self._coming[:, layer + 1], counts[:, [Q, MLP]].max(1)))
            self.steps.append(
                Step(
                    q,
                    kv,
                    locate(q, stream),
                    locate(kv, stream),
                    after,
                    locate(after, stream),
                    locate(q, after),
                    locate(mlp, after),
                )
            )
            if layer + 1 in self.turns:
                return


def _widths(counts: Counts, pools: Mapping[int, Counts]) -> tuple[Counts, Counts]:
    """Visual tokens that enter each layer and that come to it before a turn, int64[B, L + 1] each.

    All tokens of the last are there where the order is made; those of the first go on.
    """
    entering = np.zeros((len(counts), counts.shape[1] + 1), np.int64)
    coming = entering.copy()
    for layer in reversed(range(counts.shape[1])):
        entering[:, layer] = np.maximum(coming[:, layer + 1], counts[:, layer].max(1))
        pool = pools.get(layer, entering[:, layer])
        coming[:, layer] = np.maximum(entering[:, layer], pool)
    return entering, coming
