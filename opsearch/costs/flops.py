"""FLOPs of a decoder's prefill from the counts of a policy, by named conventions.

`exact` counts what a pruned model executes and equals torch's FlopCounterMode to the integer. The
other conventions reproduce published numbers; they ignore grouped-query attention, the lm_head and
routers of experts.
All of them count attention scores as a full rectangle, without the causal half. Results are exact:
int64 where a bound proves that it suffices, else Python integers (`opsearch.costs.exact`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from opsearch.costs.base import CostLabel, CostSettings
from opsearch.costs.exact import Integers, within
from opsearch.costs.shape import Shape
from opsearch.errors import PolicyError, UnknownNameError
from opsearch.formatting import screen_repr
from opsearch.policy.counts import KV, MLP, Candidates, Counts, Q, live


@dataclass(frozen=True)
class Convention:
    """Coefficients of a counting convention; d = hidden, w = width of all heads, m = intermediate.

    Attributes:
        projections: Factor of d w per query row (Q and O) and per key row (K and V).
        scores: Factor of w per pair of query and key (QK^T and AV).
        mlp: Factor of d m per row.
        router: Factor of d E per row, for E experts.
        lm_head: Factor of d V, for one row.
        real_widths: True if w is the true width, smaller for keys under grouped-query attention;
            otherwise w = d.
    """

    projections: int
    scores: int
    mlp: int
    router: int = 0
    lm_head: int = 0
    real_widths: bool = False


CONVENTIONS: dict[str, Convention] = {
    "exact": Convention(projections=4, scores=4, mlp=6, router=2, lm_head=2, real_widths=True),
    "macs": Convention(projections=2, scores=2, mlp=3),  # PyramidDrop, SparseVLM, FitPrune
    "2macs": Convention(projections=4, scores=4, mlp=6),  # GSOP, CDPruner
    "fastv": Convention(projections=2, scores=2, mlp=2),  # FastV, DivPrune: omit one MLP matrix
}


def flops(
    counts: Counts, n_visual: int, n_other: int, shape: Shape, convention: str = "exact"
) -> Integers:
    """Return the FLOPs (or MACs, by convention) of all counted operations, including dead ones.

    Args:
        counts: Resolved counts, int64[..., L, 3].
        n_visual: Visual tokens of the sample.
        n_other: Other tokens, which all layers process; 0 counts visual tokens only, as some papers
            do.
        shape: Dimensions of the decoder.
        convention: A key of CONVENTIONS; `exact` includes one row of the lm_head.

    Returns:
        int64[...], or Python integers in object[...] where int64 could wrap.

    Raises:
        PolicyError: A count exceeds `n_visual`.
    """
    rule = _convention(convention)
    most = int(counts.max(initial=0))
    if most > n_visual:
        raise PolicyError(
            f"a count of {most} is more than the sample's {n_visual} visual tokens; "
            "resolve the policy for this sample"
        )
    rows = within(counts + n_other, _bound(counts.shape[-2], most + n_other, shape, rule))
    attention = _attention(rows[..., Q], rows[..., KV], shape, rule)
    lm_head = rule.lm_head * shape.hidden * shape.vocab
    return np.asarray(attention + _mlp(rows[..., MLP], shape, rule) + lm_head, rows.dtype)


def executed(counts: Counts, n_visual: Sequence[int], n_other: Sequence[int], shape: Shape) -> int:
    """Return the FLOPs (`exact`) that one padded batch executes.

    Attention runs on samples padded to the longest one in the layer, the MLP on the rows of all
    samples without padding, the lm_head on one row per sample. If no sample is pruned the stock
    model runs, whose MLP also processes padding.

    Args:
        counts: Executed counts, int64[B, L, 3].
        n_visual: Visual tokens of each sample.
        n_other: Other tokens of each sample, without padding.
        shape: Dimensions of the decoder.
    """
    rule = CONVENTIONS["exact"]
    rows = counts + _per_sample(n_other)
    batch = len(rows)
    rows = within(rows, batch * _bound(rows.shape[1], int(rows.max()), shape, rule))
    padded = rows.max(axis=0)
    unpruned = bool((counts == _per_sample(n_visual)).all())
    mlp_rows = batch * padded[:, MLP] if unpruned else rows[..., MLP].sum(axis=0)
    attention = batch * _attention(padded[:, Q], padded[:, KV], shape, rule)
    lm_head = batch * rule.lm_head * shape.hidden * shape.vocab
    return int(attention + _mlp(mlp_rows, shape, rule) + lm_head)


def text_only_floor(shape: Shape, n_visual: int, n_other: int) -> float:
    """Return the share of the stock FLOPs that remains without visual operations, 0 to 1."""
    nothing = np.zeros((shape.layers, 3), np.int64)
    return int(flops(nothing, n_visual, n_other, shape)) / Flops(shape).stock(n_visual, n_other)


@dataclass(frozen=True)
class Flops:
    """FLOPs of the live operations of a policy, or MACs, by convention.

    Attributes:
        shape: Dimensions of the decoder.
        convention: A key of CONVENTIONS.
    """

    shape: Shape
    convention: str = "exact"

    name: ClassVar[str] = "flops"
    unit: ClassVar[str] = "FLOPs"
    label: ClassVar[CostLabel] = CostLabel("FLOPs, mean", "% of stock", words="prefill compute")
    timed: ClassVar[bool] = False

    __repr__ = screen_repr

    @classmethod
    def from_settings(cls, settings: CostSettings) -> Flops:
        """Return the cost for a decoder of this shape."""
        return cls(settings.shape)

    def of(
        self, counts: Counts, n_visual: int, n_other: int, candidates: Candidates | None = None
    ) -> Integers:
        """Return the FLOPs of all operations whose output is used, see `Cost.of`.

        Candidates of rankers inside the decoder count as used. The stock model runs the identity,
        so its dead operations count as well.
        """
        identity = (counts == n_visual).all(axis=(-2, -1))
        counted = np.where(identity[..., None, None], counts, live(counts, candidates))
        return flops(counted, n_visual, n_other, self.shape, self.convention)

    def stock(self, n_visual: int, n_other: int) -> int:
        """Return the FLOPs of all operations of the stock model."""
        everything = np.full((self.shape.layers, 3), n_visual, np.int64)
        return int(flops(everything, n_visual, n_other, self.shape, self.convention))


def _bound(layers: int, rows: int, shape: Shape, rule: Convention) -> int:
    """Return the FLOPs of layers with this number of rows in every operation.

    No operand, product or partial sum of fewer rows is larger.
    """
    q_width, kv_width = _widths(shape, rule)
    each = rule.projections * shape.hidden * (q_width + kv_width)
    each += rule.scores * q_width * max(rows, 1) + _mlp_row(shape, rule)
    return layers * max(rows, 1) * each + rule.lm_head * shape.hidden * shape.vocab


def _widths(shape: Shape, rule: Convention) -> tuple[int, int]:
    """Return the widths of all query heads, and of all key heads."""
    return (shape.q_width, shape.kv_width) if rule.real_widths else (shape.hidden, shape.hidden)


def _attention(q: Integers, kv: Integers, shape: Shape, rule: Convention) -> Any:
    """Sum projections and scores over the layers; q, kv: numbers of rows, int64[..., L]."""
    q_width, kv_width = _widths(shape, rule)
    q_and_o = rule.projections * shape.hidden * q_width * q.sum(axis=-1)
    k_and_v = rule.projections * shape.hidden * kv_width * kv.sum(axis=-1)
    scores = rule.scores * q_width * (q * kv).sum(axis=-1)
    return q_and_o + k_and_v + scores


def _mlp(rows: Integers, shape: Shape, rule: Convention) -> Any:
    """Sum the MLPs over the layers; rows: numbers of rows, int64[..., L]."""
    return _mlp_row(shape, rule) * rows.sum(axis=-1)


def _mlp_row(shape: Shape, rule: Convention) -> int:
    """Return the FLOPs of one row through the MLP of one layer."""
    return shape.hidden * (rule.mlp * shape.intermediate + rule.router * shape.router)


def _per_sample(numbers: ArrayLike) -> NDArray[np.int64]:
    return np.asarray(numbers, np.int64)[:, None, None]


def _convention(name: str) -> Convention:
    if name not in CONVENTIONS:
        raise UnknownNameError("convention", name, list(CONVENTIONS))
    return CONVENTIONS[name]
