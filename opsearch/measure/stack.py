"""Attention of many nodes of equal counts in one call, stacked along the batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opsearch.measure.entry import Pair
from opsearch.measure.nodes import Ints
from opsearch.runtime.heads import attend
from opsearch.upload import upload

# Pairs of query and key in one call: enough to keep a device busy, few enough for scores and
# gathered keys to be small beside what the nodes themselves hold.
_PAIRS = 2**20


@dataclass(frozen=True, eq=False)
class Stack:
    """Nodes of equal counts, each by the rows that ask and the rows that it reads.

    asking: int64[N, q] rows of the queries, at positions `asking_at` int64[B, 1 or O, q]; reading:
    int64[N, c] rows of the keys, to which `shift` int64[B, c] leads in the batch, at positions
    `reading_at` int64[B, O, c]; order: int64[N], which of O orders each node has.
    """

    asking: Ints
    asking_at: Tensor
    reading: Ints
    shift: Tensor
    reading_at: Tensor
    order: Ints

    def attend(self, attn: Any, queries: Tensor, keys_values: Pair) -> Iterator[Tensor]:
        """What attention adds to the asking rows, in parts [B, nodes * q, D].

        queries: [B, R, H, hd]; keys, values: [R of all, H, hd]. No row looks ahead; one that sees
        nothing at all gets nothing.
        """
        batch, asking, reading = len(self.shift), self.asking.shape[1], self.reading.shape[1]
        nodes = at_once(batch, asking, reading)
        # Parts that follow each other mostly have the same order.
        masks = lru_cache(maxsize=1)(partial(self._masks, dtype=queries.dtype))
        for start in range(0, len(self.asking), nodes):
            part = slice(start, start + nodes)
            q = _asked(queries, self.asking[part])
            read = upload(self.reading[part], queries.device) + self.shift[:, None]
            k, v = (taken(rows, read) for rows in keys_values)
            distinct, order = np.unique(self.order[part], return_inverse=True)
            mask, seeing = (_of_each(m, order) for m in masks(tuple(distinct.tolist())))
            update = attend(attn, q, k, v, mask.flatten(0, 1)[:, None]).unflatten(0, (batch, -1))
            yield (update * seeing).flatten(1, 2)

    def _masks(self, orders: Sequence[int], dtype: torch.dtype) -> Pair:
        """What is added to scores [B, O, q, c] in some orders, and who sees at all [B, O, q, 1].

        It is 0 or the lowest number: sdpa takes bool as well, but on a CPU writes it out anew for
        every node.
        """
        index, most = upload(orders, self.reading_at.device), int(max(self.order)) + 1
        asking, reading = (
            at.expand(-1, most, -1).index_select(1, index)
            for at in (self.asking_at, self.reading_at)
        )
        visible = reading[:, :, None] <= asking[..., None]
        seeing = visible.any(-1, keepdim=True)
        added = torch.zeros_like(visible, dtype=dtype)
        return added.masked_fill(~(visible | ~seeing), torch.finfo(dtype).min), seeing


def at_once(batch: int, asking: int, reading: int) -> int:
    """How many nodes go into one call."""
    return max(1, _PAIRS // (batch * asking * reading))


def taken(heads: Tensor, index: Tensor) -> Tensor:
    """Rows int64[B, N, K] of [R, H, hd], stacked as [B * N, H, K, hd]."""
    rows = heads.index_select(0, index.flatten())
    return rows.view(-1, index.shape[-1], *heads.shape[1:]).transpose(1, 2)


def _of_each(masks: Tensor, order: Ints) -> Tensor:
    """Those of O orders [B, O, ...] for nodes of these orders, [B, N, ...]."""
    if masks.shape[1] == 1:
        return masks.expand(-1, len(order), -1, -1)
    return masks.index_select(1, upload(order, masks.device))


def _asked(heads: Tensor, index: Ints) -> Tensor:
    """Rows int64[N, K] of [B, R, H, hd], stacked as [B * N, H, K, hd]."""
    batch, _, *head = heads.shape
    taken = heads.index_select(1, upload(index.ravel(), heads.device))
    return taken.view(batch * len(index), -1, *head).transpose(1, 2)
