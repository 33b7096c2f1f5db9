"""FLOPs of a decoder's prefill from the counts of a policy, by named conventions.

`exact` counts what a pruned model executes and equals torch's FlopCounterMode to the integer. The
other conventions reproduce published numbers; they ignore grouped-query attention and the lm_head.
All of them count attention scores as a full rectangle, without the causal half. Results are exact
in int64: a 7B decoder on 3,000 tokens needs 4.4e13 FLOPs, 1/200,000 of the range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from opsearch.costs.base import CostLabel, CostSettings
from opsearch.costs.shape import Shape
from opsearch.errors import PolicyError, UnknownNameError
from opsearch.policy.counts import KV, MLP, Candidates, Counts, Q, live


@dataclass(frozen=True)
class Convention:
    """Coefficients of a counting convention; d = hidden, w = width of all heads, m = intermediate.

    Attributes:
        projections: Factor of d w per query row (Q and O) and per key row (K and V).
        scores: Factor of w per pair of query and key (QK^T and AV).
        mlp: Factor of d m per row.
        lm_head: Factor of d V, for one row.
        real_widths: True if w is the true width, smaller for keys under grouped-query attention;
            otherwise w = d.
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
    "fastv": Convention(projections=2, scores=2, mlp=2),  # FastV, DivPrune: omit one MLP matrix
}


def flops(
    counts: Counts, n_visual: int, n_other: int, shape: Shape, convention: str = "exact"
) -> NDArray[np.int64]:
    """Return the FLOPs (or MACs, by convention) of all counted operations, including dead ones.

    Args:
        counts: Resolved counts, int64[..., L, 3].
        n_visual: Visual tokens of the sample.
        n_other: Other tokens, which all layers process; 0 counts visual tokens only, as some papers
            do.
        shape: Dimensions of the decoder.
        convention: A key of CONVENTIONS; `exact` includes one row of the lm_head.

    Returns:
        int64[...].

    Raises:
        PolicyError: A count exceeds `n_visual`.
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
    batch, padded = len(rows), rows.max(axis=0)
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

    @classmethod
    def from_settings(cls, settings: CostSettings) -> Flops:
        """Return the cost for a decoder of this shape."""
        return cls(settings.shape)

    def of(
        self, counts: Counts, n_visual: int, n_other: int, candidates: Candidates | None = None
    ) -> NDArray[np.int64]:
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


def _attention(
    q: NDArray[np.int64], kv: NDArray[np.int64], shape: Shape, rule: Convention
) -> NDArray[np.int64]:
    """Sum projections and scores over the layers; q, kv: numbers of rows, int64[..., L]."""
    real = rule.real_widths
    q_width, kv_width = (shape.q_width, shape.kv_width) if real else (shape.hidden, shape.hidden)
    q_and_o = rule.projections * shape.hidden * q_width * q.sum(axis=-1)
    k_and_v = rule.projections * shape.hidden * kv_width * kv.sum(axis=-1)
    scores = rule.scores * q_width * (q * kv).sum(axis=-1)
    return np.asarray(q_and_o + k_and_v + scores)


def _mlp(rows: NDArray[np.int64], shape: Shape, rule: Convention) -> NDArray[np.int64]:
    """Sum the MLPs over the layers; rows: numbers of rows, int64[..., L]."""
    return np.asarray(rule.mlp * shape.hidden * shape.intermediate * rows.sum(axis=-1))


def _per_sample(numbers: ArrayLike) -> NDArray[np.int64]:
    return np.asarray(numbers, np.int64)[:, None, None]


def _convention(name: str) -> Convention:
    if name not in CONVENTIONS:
        raise UnknownNameError("convention", name, list(CONVENTIONS))
    return CONVENTIONS[name]
