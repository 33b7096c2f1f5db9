"""What one prefill computes in each layer: index sets, attention masks and positions.

Built once per prefill from the resolved counts; all layers with equal counts share one set, so a
DOP policy has at most three.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from opsearch.policy import KV, MLP, Counts, Q
from opsearch.runtime.rows import Rows, Within


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


@dataclass(eq=False)
class Plan:
    """All layers' steps for one batch. Masks and rotary embeddings are cut once per set."""

    entry: Rows
    steps: list[Step]
    _memo: dict[object, object] = field(default_factory=dict)

    def rotary(
        self, position_embeddings: tuple[Tensor, Tensor], rows: Rows
    ) -> tuple[Tensor, Tensor]:
        """cos and sin of the rows' original positions, [..., B, K, hd]."""
        key = ("rotary", id(rows))
        if key not in self._memo:
            cos, sin = position_embeddings
            self._memo[key] = (rows.gather(cos), rows.gather(sin))
        return self._memo[key]  # type: ignore[return-value]

    def mask(self, stock: Tensor | None, q: Rows, kv: Rows) -> tuple[Tensor | None, Tensor | None]:
        """The stock attention mask restricted to rows `q` and columns `kv`.

        Returns the mask [B, 1, Kq, Kkv] (None: plain causal attention is right) and, where some row
        of q has no key at all, which rows do, [B, Kq]; the attention output of the others is zero.
        """
        key = ("mask", id(q), id(kv), id(stock))
        if key not in self._memo:
            self._memo[key] = _restrict(stock, q, kv)
        return self._memo[key]  # type: ignore[return-value]


def build_plan(visual: Tensor, real: Tensor, rank: Tensor, counts: Counts) -> Plan:
    """The plan for one batch.

    visual, real: bool[B, S], visual positions and positions that are no padding.
    rank: int64[B, S], place of each visual token in its sample's ranking, -1 elsewhere.
    counts: int64[B, L, 3], visual tokens that each operation processes.
    """
    other = real & ~visual
    n_other = other.sum(1).tolist()
    sets: dict[tuple[int, ...], Rows] = {}

    def rows(per_sample: Counts) -> Rows:
        key = tuple(int(c) for c in per_sample)
        if key not in sets:
            limit = torch.tensor(key, device=rank.device)[:, None]
            keep = other | (visual & (rank < limit))
            sizes = [text + count for text, count in zip(n_other, key, strict=True)]
            sets[key] = Rows.select(keep, sizes)
        return sets[key]

    layers = counts.shape[1]
    entering = np.maximum.accumulate(counts.max(axis=2)[:, ::-1], axis=1)[:, ::-1]
    entering = np.concatenate([entering, np.zeros_like(entering[:, :1])], axis=1)
    within: dict[tuple[int, int], Within] = {}

    def locate(inner: Rows, stream: Rows) -> Within:
        key = (id(inner), id(stream))
        if key not in within:
            within[key] = Within.of(inner, stream)
        return within[key]

    steps = []
    for layer in range(layers):
        stream = rows(entering[:, layer])
        q, kv, mlp = (rows(counts[:, layer, module]) for module in (Q, KV, MLP))
        needed = np.maximum(entering[:, layer + 1], counts[:, layer, [Q, MLP]].max(axis=1))
        after = rows(needed)
        steps.append(
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
    return Plan(rows(entering[:, 0]), steps)


def _restrict(stock: Tensor | None, q: Rows, kv: Rows) -> tuple[Tensor | None, Tensor | None]:
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
