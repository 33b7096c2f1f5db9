"""FLOPs of rankers inside the decoder (convention `exact`), equal to torch's FlopCounterMode."""

from __future__ import annotations

import numpy as np

from opsearch.costs.exact import Integers, integers
from opsearch.costs.shape import Shape
from opsearch.policy.policy import Policy
from opsearch.policy.schedule import RerankingTable
from opsearch.rankers import make_decoder_ranker
from opsearch.rankers.base import DecoderRanker


def ranking_flops(policy: Policy, n_visual: int, n_other: int, shape: Shape) -> int:
    """Return the FLOPs of a policy's rankers inside the decoder on one sample."""
    return sum(
        reranking_flops(make_decoder_ranker(each.spec), each.candidates, n_visual, n_other, shape)
        for each in policy.schedule(n_visual).rerankings
    )


def ranking_flops_of(
    rerankings: RerankingTable, n_visual: int, n_other: int, shape: Shape
) -> Integers:
    """Return the FLOPs of the rankers inside the decoder of P policies on one sample, [P].

    Args:
        rerankings: What each policy reranks.
        n_visual: Visual tokens of the sample.
        n_other: Other tokens of the sample.
        shape: Dimensions of the decoder.

    Returns:
        int64[P], or Python integers in object[P] where int64 could wrap.
    """
    total = np.zeros(len(rerankings.ranker), object)
    for number, spec in enumerate(rerankings.specs):
        ranker = make_decoder_ranker(spec)
        acts = rerankings.ranker == number
        for candidates in np.unique(rerankings.candidates[acts]).tolist():
            flops = reranking_flops(ranker, candidates, n_visual, n_other, shape)
            total += flops * (acts & (rerankings.candidates == candidates)).sum(axis=1)
    return integers(total.tolist())


def reranking_flops(
    ranker: DecoderRanker, candidates: int, n_visual: int, n_other: int, shape: Shape
) -> int:
    """Return the FLOPs of one reranking.

    The ranker projects the queries of its query rows and the keys of candidates and other tokens,
    and multiplies them. A ranker that reads embeddings also multiplies those of visual and other
    tokens.

    Args:
        ranker: Ranker inside the decoder.
        candidates: Number of visual tokens that it ranks.
        n_visual: Visual tokens of the sample.
        n_other: Other tokens of the sample.
        shape: Dimensions of the decoder.
    """
    keys = candidates + n_other
    queries = {"last": 1, "text": n_other, "all": keys}[ranker.query_rows]
    total = 2 * shape.hidden * (shape.q_width * queries + shape.kv_width * keys)
    total += 2 * shape.q_width * queries * keys
    if "embeddings" in ranker.needs:
        total += 2 * shape.hidden * n_visual * n_other
    return total
