"""FLOPs of a decoder's prefill from the counts of a policy, by named conventions.

Only `exact` is what a pruned model executes: it equals torch's FlopCounterMode to the integer. The
others are what papers print; they ignore grouped-query attention and the lm_head. All of them count
attention scores as a full rectangle, without the causal half. Everything is exact in int64: a 7B
decoder on 3,000 tokens takes 4.4e13, one part in 200,000 of its range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from opsearch.costs.shape import Shape
from opsearch.errors import PolicyError, UnknownNameError
from opsearch.policy import KV, MLP, Counts, Pools, Q, live


@dataclass(frozen=True)
class Convention:
    """Coefficients of a way to count; d = hidden, w = width of all heads, m = intermediate.

    projections: times d w per query row (Q and O) and per key row (K and V); scores: times w per
    pair of query and key (QK^T and AV); mlp: times d m per row; lm_head: times d V, for one row;
    real_widths: w is the true width (smaller for keys under grouped-query attention), else d.
    """

    projections: int
    scores: int
    mlp: int
    lm_head: int = 0
    real_widths: bool = False


CONVENTIONS: dict[str, Convention] = {
    "exact": Convention(projections=4, scores=4, mlp=6, lm_head=2, real_widths=True),
    "macs": Convention(projections=2, scores=2, mlp=3),  # PyramidDrop, SparseVLM, FitPrune
    "2macs": Convention(projections=4, scores=4, mlp=6),  # GSOP, CDPruner
    "fastv": Convention(projections=2, scores=2, mlp=2),  # FastV, DivPrune: one MLP matrix short
}


def flops(
    counts: Counts, n_visual: int, n_other: int, shape: Shape, convention: str = "exact"
) -> NDArray[np.int64]:
    """Operations of counts int64[..., L, 3] as they stand, nothing removed, int64[...].

    Every layer also processes the `n_other` other tokens: 0 gives the "visual tokens only" of
    papers. `exact` includes one row of the lm_head. Unit: FLOPs, or MACs where the convention
    says so. Raises PolicyError for counts above `n_visual`.
    """
    rule = _convention(convention)
    if counts.max(initial=0) > n_visual:
        raise PolicyError(
            f"a count of {counts.max()} is more than the sample's {n_visual} visual tokens; "
            "resolve the policy for this sample"
        )
    rows = counts + n_other
    attention = _attention(rows[..., Q], rows[..., KV], shape, rule)
    lm_head = rule.lm_head * shape.hidden * shape.vocab
    return np.asarray(attention + _mlp(rows[..., MLP], shape, rule) + lm_head)


def executed(counts: Counts, n_visual: Sequence[int], n_other: Sequence[int], shape: Shape) -> int:
    """FLOPs (`exact`) that one padded batch executes; counts int64[B, L, 3] as executed.

    Attention runs on samples padded to the longest one of the layer, the MLP on the rows of all
    samples without pads, the lm_head on one row per sample. Where no sample is pruned the stock
    model runs, and its MLP processes the pads too. Pads are not part of `n_other`.
    """
    rule = CONVENTIONS["exact"]
    rows = counts + _per_sample(n_other)
    batch, padded = len(rows), rows.max(axis=0)
    unpruned = bool((counts == _per_sample(n_visual)).all())
    mlp_rows = batch * padded[:, MLP] if unpruned else rows[..., MLP].sum(axis=0)
    attention = batch * _attention(padded[:, Q], padded[:, KV], shape, rule)
    lm_head = batch * rule.lm_head * shape.hidden * shape.vocab
    return int(attention + _mlp(mlp_rows, shape, rule) + lm_head)


def text_only_floor(shape: Shape, n_visual: int, n_other: int) -> float:
    """Share of the stock model's FLOPs that is left when no visual operation is kept, 0 to 1."""
    nothing = np.zeros((shape.layers, 3), np.int64)
    return int(flops(nothing, n_visual, n_other, shape)) / Flops(shape).stock(n_visual, n_other)


@dataclass(frozen=True)
class Flops:
    """Live operations of a policy, in FLOPs (MACs where the convention counts those)."""

    shape: Shape
    convention: str = "exact"

    @property
    def name(self) -> str:
        """Key of this cost."""
        return "flops"

    @property
    def unit(self) -> str:
        """Unit of the returned integers."""
        return "FLOPs"

    def of(
        self, counts: Counts, n_visual: int, n_other: int, pools: Pools | None = None
    ) -> NDArray[np.int64]:
        """Operations somebody reads, of resolved counts int64[..., L, 3].

        pools: of rankers inside the decoder, which read hidden states too (Policy.pools). The
        identity is the exception: the stock model runs it, dead operations included.
        """
        identity = (counts == n_visual).all(axis=(-2, -1))
        performed = np.where(identity[..., None, None], counts, live(counts, pools))
        return flops(performed, n_visual, n_other, self.shape, self.convention)

    def stock(self, n_visual: int, n_other: int) -> int:
        """Operations of the stock model, all of them."""
        everything = np.full((self.shape.layers, 3), n_visual, np.int64)
        return int(flops(everything, n_visual, n_other, self.shape, self.convention))


def _attention(
    q: NDArray[np.int64], kv: NDArray[np.int64], shape: Shape, rule: Convention
) -> NDArray[np.int64]:
    """Projections and scores, summed over the layers of the row numbers int64[..., L]."""
    real = rule.real_widths
    q_width, kv_width = (shape.q_width, shape.kv_width) if real else (shape.hidden, shape.hidden)
    q_and_o = rule.projections * shape.hidden * q_width * q.sum(axis=-1)
    k_and_v = rule.projections * shape.hidden * kv_width * kv.sum(axis=-1)
    scores = rule.scores * q_width * (q * kv).sum(axis=-1)
    return np.asarray(q_and_o + k_and_v + scores)


def _mlp(rows: NDArray[np.int64], shape: Shape, rule: Convention) -> NDArray[np.int64]:
    """The MLP, summed over the layers of the row numbers int64[..., L]."""
    return np.asarray(rule.mlp * shape.hidden * shape.intermediate * rows.sum(axis=-1))


def _per_sample(numbers: ArrayLike) -> NDArray[np.int64]:
    return np.asarray(numbers, np.int64)[:, None, None]


def _convention(name: str) -> Convention:
    if name not in CONVENTIONS:
        raise UnknownNameError("convention", name, list(CONVENTIONS))
    return CONVENTIONS[name]
