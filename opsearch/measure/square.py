"""Attention of nodes that read the very rows that ask, without a mask.

Taken in the order of their positions such rows are plain causal attention: kernels skip the half of
all pairs that nobody sees, and on a GPU the flash kernel runs, which takes no mask.
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
from opsearch.measure.stack import at_once, taken
from opsearch.runtime.heads import attended, causal_mask
from opsearch.upload import upload


@dataclass(frozen=True, eq=False)
class Square:
    """Nodes of equal counts whose asking rows are the last of those that they read.

    asking, reading, shift, reading_at and order are those of a Stack.
    """

    asking: Ints
    reading: Ints
    shift: Tensor
    reading_at: Tensor
    order: Ints

    def attend(self, attn: Any, queries: Tensor, keys_values: Pair) -> Iterator[Tensor]:
        """What attention adds to the asking rows, in parts [B, nodes * q, D], as by a Stack."""
        batch, columns = len(self.shift), self.reading.shape[1]
        others = columns - self.asking.shape[1]
        # Rows that are only read get a query too, whichever, or the call would not be square.
        strangers = np.repeat(self.asking[:, :1], others, axis=1)
        asked = np.concatenate([strangers, self.asking], axis=1)
        begin = torch.arange(batch, device=queries.device) * queries.shape[1]
        by_position = self.reading_at.argsort(2)
        back = by_position.argsort(2)[:, :, others:]
        mask, rows = causal_mask(attn, columns, queries), queries.flatten(0, 1)
        nodes = at_once(batch, columns, columns)
        for start in range(0, len(self.asking), nodes):
            part = slice(start, start + nodes)
            order = upload(self.order[part], queries.device)
            sort, unsort = (index.index_select(1, order) for index in (by_position, back))
            read = upload(self.reading[part], queries.device) + self.shift[:, None]
            ask = upload(asked[part], queries.device) + begin[:, None, None]
            k, v = (taken(each, read.gather(2, sort)) for each in keys_values)
            heads = attended(attn, taken(rows, ask.gather(2, sort)), k, v, mask)
            heads = heads.unflatten(0, (batch, -1))
            kept = heads.gather(2, unsort[..., None].expand(-1, -1, -1, heads.shape[-1]))
            yield attn.o_proj(kept.flatten(1, 2))
