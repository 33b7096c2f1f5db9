"""Attention of nodes with equal counts, stacked along the batch of one call.

Nodes that read their own query rows need no mask: sorted by position, these rows are plain causal
attention, so kernels skip the invisible half of all pairs and a GPU can use its flash kernel.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from opsearch.measure.layout import Ints
from opsearch.measure.sweep.inputs import Pair
from opsearch.measure.sweep.visibility import Visibility, sees
from opsearch.models.attention import Attention
from opsearch.rankers.upload import upload

# Pairs of query and key in one call: enough to saturate a device, few enough that scores and
# gathered keys stay small compared with the states.
_PAIRS_PER_CALL = 2**20


class KeyRows(NamedTuple):
    """Rows of the keys that N nodes read.

    Attributes:
        rows: int64[N, c], rows in the first batch row.
        batch_offset: int64[B, c], offset of the rows of each batch row.
        positions: int64[B, O, c], positions of the rows in each order.
    """

    rows: Ints
    batch_offset: Tensor
    positions: Tensor

    def of_nodes(self, nodes: slice) -> Tensor:
        """Return the rows that these nodes read, int64[B, n, c]."""
        return upload(self.rows[nodes], self.batch_offset.device) + self.batch_offset[:, None]


@dataclass(frozen=True, eq=False)
class MaskedAttention:
    """N nodes with equal numbers of query rows and key rows.

    Attributes:
        query_rows: int64[N, q], rows of the queries.
        query_positions: int64[B, 1 or O, q], positions of the query rows in each order.
        keys: Rows of the keys.
        order: int64[N], index of each node's order.
        visibility: Positions that each row sees; None for causal attention.
    """

    query_rows: Ints
    query_positions: Tensor
    keys: KeyRows
    order: Ints
    visibility: Visibility | None = None

    def attend(self, attn: Attention, queries: Tensor, keys_values: Pair) -> Iterator[Tensor]:
        """Yield the attention output of the query rows in parts [B, nodes * q, D].

        Rows without any visible key get 0.

        Args:
            attn: The layer's attention.
            queries: [B, R, H, hd].
            keys_values: Keys and values of all nodes, [R, H_kv, hd] each.
        """
        batch, n_queries = len(self.keys.batch_offset), self.query_rows.shape[1]
        nodes = nodes_per_call(batch, n_queries, self.keys.rows.shape[1])
        # Consecutive parts mostly have the same order.
        masks = lru_cache(maxsize=1)(partial(self._masks, dtype=queries.dtype))
        for start in range(0, len(self.query_rows), nodes):
            part = slice(start, start + nodes)
            q = _gather_queries(queries, self.query_rows[part])
            key_index = self.keys.of_nodes(part)
            k, v = (gather_rows(rows, key_index) for rows in keys_values)
            distinct, order = np.unique(self.order[part], return_inverse=True)
            mask, sees_any = (_select_orders(m, order) for m in masks(tuple(distinct.tolist())))
            update = attn.attend(q, k, v, mask.flatten(0, 1)[:, None]).unflatten(0, (batch, -1))
            yield (update * sees_any).flatten(1, 2)

    def _masks(self, orders: Sequence[int], dtype: torch.dtype) -> Pair:
        """Return additive masks [B, O, q, c] of these orders, and visibility [B, O, q, 1].

        Visibility is true where a row sees any key. Masks are additive because sdpa on a CPU
        expands a boolean mask for every node.
        """
        index, n_orders = upload(orders, self.keys.positions.device), int(max(self.order)) + 1
        queries_at, keys_at = (
            at.expand(-1, n_orders, -1).index_select(1, index)
            for at in (self.query_positions, self.keys.positions)
        )
        visible = sees(self.visibility, queries_at, keys_at)
        sees_any = visible.any(-1, keepdim=True)
        added = torch.zeros_like(visible, dtype=dtype)
        return added.masked_fill(~(visible | ~sees_any), torch.finfo(dtype).min), sees_any


def nodes_per_call(batch: int, n_queries: int, n_keys: int) -> int:
    """Return the number of nodes in one attention call."""
    return max(1, _PAIRS_PER_CALL // (batch * n_queries * n_keys))


def gather_rows(heads: Tensor, index: Tensor) -> Tensor:
    """Gather rows int64[B, N, K] of [R, H, hd] as [B * N, H, K, hd]."""
    rows = heads.index_select(0, index.flatten())
    return rows.view(-1, index.shape[-1], *heads.shape[1:]).transpose(1, 2)


def _select_orders(masks: Tensor, order: Ints) -> Tensor:
    """Select from masks of O orders [B, O, ...] that of each node, [B, N, ...]."""
    if masks.shape[1] == 1:
        return masks.expand(-1, len(order), -1, -1)
    return masks.index_select(1, upload(order, masks.device))


def _gather_queries(heads: Tensor, index: Ints) -> Tensor:
    """Gather rows int64[N, K] of [B, R, H, hd] as [B * N, H, K, hd]."""
    batch, _, *head = heads.shape
    rows = heads.index_select(1, upload(index.ravel(), heads.device))
    return rows.view(batch * len(index), -1, *head).transpose(1, 2)


@dataclass(frozen=True, eq=False)
class CausalAttention:
    """N nodes whose query rows are the last of their key rows.

    The attributes are those of MaskedAttention.
    """

    query_rows: Ints
    keys: KeyRows
    order: Ints

    def attend(self, attn: Attention, queries: Tensor, keys_values: Pair) -> Iterator[Tensor]:
        """Yield the attention output of the query rows, as `MaskedAttention.attend` does."""
        batch, columns = len(self.keys.batch_offset), self.keys.rows.shape[1]
        n_others = columns - self.query_rows.shape[1]
        # Rows that are only read get an arbitrary query, so that the call is square.
        fillers = np.repeat(self.query_rows[:, :1], n_others, axis=1)
        padded_queries = np.concatenate([fillers, self.query_rows], axis=1)
        batch_start = torch.arange(batch, device=queries.device) * queries.shape[1]
        by_position = self.keys.positions.argsort(2)
        inverse = by_position.argsort(2)[:, :, n_others:]
        mask, flat_queries = attn.causal_mask(columns, queries), queries.flatten(0, 1)
        nodes = nodes_per_call(batch, columns, columns)
        for start in range(0, len(self.query_rows), nodes):
            part = slice(start, start + nodes)
            order = upload(self.order[part], queries.device)
            sort, unsort = (index.index_select(1, order) for index in (by_position, inverse))
            key_index = self.keys.of_nodes(part)
            query_index = upload(padded_queries[part], queries.device) + batch_start[:, None, None]
            k, v = (gather_rows(each, key_index.gather(2, sort)) for each in keys_values)
            heads = attn.attended(
                gather_rows(flat_queries, query_index.gather(2, sort)), k, v, mask
            )
            first = torch.arange(len(heads), device=heads.device).view(batch, -1, 1) * columns
            # Much faster than to gather along a middle dimension.
            kept = heads.flatten(0, 1).index_select(0, (unsort + first).flatten())
            yield attn.module.o_proj(kept.unflatten(0, (batch, -1)))
