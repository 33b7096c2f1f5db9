"""FLOPs of rankers inside the decoder, which are not part of a policy's cost."""

from __future__ import annotations

from opsearch.costs.shape import Shape
from opsearch.policy.policy import Policy
from opsearch.rankers import make_decoder_ranker
from opsearch.rankers.base import DecoderRanker


def ranking_flops(policy: Policy, n_visual: int, n_other: int, shape: Shape) -> int:
    """Return the FLOPs (`exact`) of a policy's rankers inside the decoder on one sample."""
    return sum(
        reranking_flops(make_decoder_ranker(turn.spec), turn.pool, n_visual, n_other, shape)
        for turn in policy.schedule(n_visual).turns
    )


def reranking_flops(
    ranker: DecoderRanker, candidates: int, n_visual: int, n_other: int, shape: Shape
) -> int:
    """Return the FLOPs (`exact`) of one reranking.

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
