"""Attention of many nodes of equal counts in one call, stacked along the batch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from opsearch.measure.entry import Pair
from opsearch.measure.trie import Ints
from opsearch.runtime.heads import attend

# Pairs of query and key in one call: enough to keep a device busy, few enough for scores and
# gathered keys to be small beside what the nodes themselves hold.
_PAIRS = 2**20


@dataclass(frozen=True, eq=False)
class Stack:
    """Nodes of equal counts, each by the rows that ask and the rows that it reads.

    asking: int64[N, q] rows of the queries, at positions `asking_at` int64[B, q]; reading:
    int64[N, c] rows of the keys, to which `shift` int64[B, c] leads in the batch, at positions
    `reading_at` int64[B, c].
    """

    asking: Ints
    asking_at: Tensor
    reading: Ints
    shift: Tensor
    reading_at: Tensor

    def attend(self, attn: Any, queries: Tensor, keys_values: Pair) -> Iterator[Tensor]:
        """What attention adds to the asking rows, in parts [B, nodes * q, D].

        queries: [B, R, H, hd]; keys, values: [R of all, H, hd]. No row looks ahead; one that sees
        nothing at all gets nothing.
        """
        batch, asking = self.asking_at.shape
        reading = self.reading_at.shape[1]
        visible = self.reading_at[:, None, :] <= self.asking_at[:, :, None]
        seeing = visible.any(-1, keepdim=True)
        mask = _mask(visible | ~seeing, queries.dtype)[:, None, None]
        nodes = max(1, _PAIRS // (batch * asking * reading))
        for start in range(0, len(self.asking), nodes):
            part = slice(start, start + nodes)
            q = _asked(queries, self.asking[part])
            read = _on(self.reading[part], queries.device) + self.shift[:, None]
            k, v = (_read(rows, read) for rows in keys_values)
            masks = mask.expand(-1, len(self.asking[part]), -1, -1, -1).flatten(0, 1)
            update = attend(attn, q, k, v, masks).unflatten(0, (batch, -1))
            yield (update * seeing[:, None]).flatten(1, 2)


def _asked(heads: Tensor, index: Ints) -> Tensor:
    """Rows int64[N, K] of [B, R, H, hd], stacked as [B * N, H, K, hd]."""
    batch, _, *head = heads.shape
    taken = heads.index_select(1, _on(index.ravel(), heads.device))
    return taken.view(batch * len(index), -1, *head).transpose(1, 2)


def _read(heads: Tensor, index: Tensor) -> Tensor:
    """Rows int64[B, N, K] of [R, H, hd], stacked as [B * N, H, K, hd]."""
    taken = heads.index_select(0, index.flatten())
    return taken.view(-1, index.shape[-1], *heads.shape[1:]).transpose(1, 2)


def _on(index: Ints, device: torch.device) -> Tensor:
    return torch.from_numpy(index).to(device)


def _mask(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to scores: 0 or the lowest number.

    sdpa takes bool as well, but on a CPU writes it out anew for every node.
    """
    return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, torch.finfo(dtype).min)
