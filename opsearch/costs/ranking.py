"""What rankers inside the decoder take themselves, which is no part of a policy's cost."""

from __future__ import annotations

from opsearch.costs.shape import Shape
from opsearch.policy import Policy
from opsearch.rankers import make_decoder_ranker
from opsearch.rankers.look import DecoderRanker


def ranking_flops(policy: Policy, n_visual: int, n_other: int, shape: Shape) -> int:
    """FLOPs (`exact`) of all rankers of a policy inside the decoder on one sample."""
    return sum(
        look_flops(make_decoder_ranker(turn.spec), turn.pool, n_visual, n_other, shape)
        for turn in policy.schedule(n_visual).turns
    )


def look_flops(ranker: DecoderRanker, pool: int, n_visual: int, n_other: int, shape: Shape) -> int:
    """FLOPs of ordering `pool` of so many visual tokens.

    The queries of the rows that it asks and the keys of what it orders and of the other tokens are
    projected anew and multiplied; a ranker that reads embeddings multiplies those once more.
    """
    keys = pool + n_other
    queries = {"last": 1, "text": n_other, "all": keys}[ranker.asks]
    total = 2 * shape.hidden * (shape.q_width * queries + shape.kv_width * keys)
    total += 2 * shape.q_width * queries * keys
    if "embeddings" in ranker.needs:
        total += 2 * shape.hidden * n_visual * n_other
    return total
