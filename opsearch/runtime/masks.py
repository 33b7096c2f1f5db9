"""Attention masks of a layer that works on some rows only."""

from __future__ import annotations

import torch
from torch import Tensor

from opsearch.runtime.rows import Rows

FLASH = "flash_attention_2"  # takes masks of columns alone, bool[B, S_kv]


def restricted(
    stock: Tensor | None, q: Rows, kv: Rows, attention: str
) -> tuple[Tensor | None, Tensor | None]:
    """The stock mask of an attention implementation restricted to rows `q` and columns `kv`.

    Returns the mask [B, 1, Kq, Kkv] (None: plain causal attention is right) and, where some row of
    q has no key at all, which rows do, [B, Kq]; the attention output of the others is to be zero.
    """
    if attention == FLASH:
        # Its stock mask only says what is padding: no set holds any, and slack slots come last,
        # where no row sees them that is not slack itself.
        if q is kv:
            return None, None
        stock = None
    if stock is None and q is kv and not q.ragged:
        return None, None
    columns = kv.valid[:, None, :] if kv.ragged else None
    if stock is None or stock.dtype == torch.bool:
        if stock is None:
            allowed = kv.index[:, None, :] <= q.index[:, :, None]
        else:
            allowed = _cut(stock, q, kv)
        if columns is not None:
            allowed = allowed & columns
        has_key = allowed.any(-1)
        mask = (allowed | ~has_key[..., None])[:, None]
    else:
        lowest = torch.finfo(stock.dtype).min
        cut = _cut(stock, q, kv)
        if columns is not None:
            cut = cut.masked_fill(~columns, lowest)
        has_key = (cut > lowest).any(-1)
        mask = cut[:, None]
    # A row always finds its own key where its kv is kept, so only larger q sets need the check.
    certain = all(a <= b for a, b in zip(q.sizes, kv.sizes, strict=True))
    return mask, None if certain else has_key


def _cut(stock: Tensor, q: Rows, kv: Rows) -> Tensor:
    """Rows `q` and columns `kv` of a [B or 1, 1, S, S] mask, [B, Kq, Kkv]."""
    batch = torch.arange(len(q.sizes), device=stock.device)[:, None, None]
    full = stock[:, 0].expand(len(q.sizes), *stock.shape[2:])
    return full[batch, q.index[:, :, None], kv.index[:, None, :]]
