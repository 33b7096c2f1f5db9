"""Causal attention of nodes that read their own query rows, without a mask.

Sorted by position, such rows are plain causal attention. Kernels skip the invisible half of all
pairs, and a GPU can use its flash kernel, which takes no mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opsearch.measure.entry import Pair
from opsearch.measure.nodes import Ints
from opsearch.measure.stack import gather_rows, nodes_per_call
from opsearch.rankers.upload import upload
from opsearch.runtime.heads import attended, causal_mask


@dataclass(frozen=True, eq=False)
class CausalAttention:
    """N nodes whose query rows are the last of their key rows.

    The attributes are those of MaskedAttention.
    """

    query_rows: Ints
    key_rows: Ints
    batch_offset: Tensor
    key_positions: Tensor
    order: Ints

    def attend(self, attn: Any, queries: Tensor, keys_values: Pair) -> Iterator[Tensor]:
        """Yield the attention output of the query rows, as `MaskedAttention.attend` does."""
        batch, columns = len(self.batch_offset), self.key_rows.shape[1]
        n_others = columns - self.query_rows.shape[1]
        # Rows that are only read get an arbitrary query, so that the call is square.
        fillers = np.repeat(self.query_rows[:, :1], n_others, axis=1)
        padded_queries = np.concatenate([fillers, self.query_rows], axis=1)
        batch_start = torch.arange(batch, device=queries.device) * queries.shape[1]
        by_position = self.key_positions.argsort(2)
        inverse = by_position.argsort(2)[:, :, n_others:]
        mask, flat_queries = causal_mask(attn, columns, queries), queries.flatten(0, 1)
        nodes = nodes_per_call(batch, columns, columns)
        for start in range(0, len(self.query_rows), nodes):
            part = slice(start, start + nodes)
            order = upload(self.order[part], queries.device)
            sort, unsort = (index.index_select(1, order) for index in (by_position, inverse))
            key_index = upload(self.key_rows[part], queries.device) + self.batch_offset[:, None]
            query_index = upload(padded_queries[part], queries.device) + batch_start[:, None, None]
            k, v = (gather_rows(each, key_index.gather(2, sort)) for each in keys_values)
            heads = attended(
                attn, gather_rows(flat_queries, query_index.gather(2, sort)), k, v, mask
            )
            heads = heads.unflatten(0, (batch, -1))
            kept = heads.gather(2, unsort[..., None].expand(-1, -1, -1, heads.shape[-1]))
            yield attn.o_proj(kept.flatten(1, 2))
