"""Attention masks of pruned layers: the stock mask at the rows and columns that they compute."""

from __future__ import annotations

import torch
from torch import Tensor

from opsearch.models.attention import FLASH
from opsearch.models.pruned.rows import Rows


def restrict_mask(
    stock: Tensor | None, q: Rows, kv: Rows, attention: str
) -> tuple[Tensor | None, Tensor | None]:
    """Restrict the stock mask of an attention implementation to rows `q` and columns `kv`.

    Returns:
        The mask [B, 1, Kq, Kkv], None for causal attention; and a mask of the queries that attend
        to any key, [B, Kq], None if all do. The attention output of the others must be set to zero.
    """
    if attention == FLASH:
        # Its stock mask marks only padding tokens, which are in no row set. Unused slots come last,
        # where causal attention hides them from all valid rows.
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
            allowed = _select(stock, q, kv)
        if columns is not None:
            allowed = allowed & columns
        has_key = allowed.any(-1)
        mask = (allowed | ~has_key[..., None])[:, None]
    else:
        lowest = torch.finfo(stock.dtype).min
        selected = _select(stock, q, kv)
        if columns is not None:
            selected = selected.masked_fill(~columns, lowest)
        has_key = (selected > lowest).any(-1)
        mask = selected[:, None]
    # Sets are nested, so with no more q than kv rows each query attends at least to its own key.
    certain = all(a <= b for a, b in zip(q.sizes, kv.sizes, strict=True))
    return mask, None if certain else has_key


def visible_keys(stock: Tensor | None, q: Rows, kv: Rows) -> Tensor | None:
    """Return the columns `kv` that rows `q` see under the stock mask, bool[B, Kq, Kkv].

    None stands for those at or before a row's position: without a mask, and with FlashAttention's,
    which marks padding only.
    """
    if stock is None or stock.ndim != 4:
        return None
    selected = _select(stock, q, kv)
    lowest = None if stock.dtype == torch.bool else torch.finfo(stock.dtype).min
    return selected if lowest is None else selected > lowest


def _select(stock: Tensor, q: Rows, kv: Rows) -> Tensor:
    """Select rows `q` and columns `kv` of a [B or 1, 1, S, S] mask, [B, Kq, Kkv]."""
    batch = torch.arange(len(q.sizes), device=stock.device)[:, None, None]
    full = stock[:, 0].expand(len(q.sizes), *stock.shape[2:])
    return full[batch, q.index[:, :, None], kv.index[:, None, :]]
