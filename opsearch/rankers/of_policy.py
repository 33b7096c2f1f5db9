"""The rankers that a policy names, and what they read."""

from __future__ import annotations

from opsearch.errors import PolicyError, shortened
from opsearch.policy.policy import Policy
from opsearch.policy.schedule import Reranking, before_decoder
from opsearch.rankers import make_decoder_ranker, make_ranker
from opsearch.rankers.base import Ranker

_MANY_TOKENS = 10**6  # exceeds any sample, so that every token count is a partial one


def policy_ranker(policy: Policy, *, all_rows: bool = False) -> Ranker | None:
    """Return the ranker before the decoder, None if the policy needs no ranking.

    With `all_rows` no operation is dead, see `schedule`.
    """
    kept = policy.schedule(_MANY_TOKENS, all_rows=all_rows).kept
    if not kept:
        return None
    spec = before_decoder(policy)
    if spec is None:
        raise PolicyError(
            f"policy {shortened(policy.name)} keeps a part of the visual tokens but names no "
            "ranker to select them; give it one, e.g. RankerSpec('uniform')"
        )
    ranker = make_ranker(spec)
    if len(kept) > 1 and not ranker.nested:
        raise PolicyError(
            f"ranker {shortened(spec)} gives another order for each count, but the policy "
            f"uses {len(kept)} different counts; use a nested one such as cls, divprune or random"
        )
    return ranker


def decoder_rerankings(policy: Policy, *, all_rows: bool = False) -> tuple[Reranking, ...]:
    """Return the rerankings inside the decoder of samples with many visual tokens.

    With `all_rows` no operation is dead, see `schedule`.
    """
    return policy.schedule(_MANY_TOKENS, all_rows=all_rows).rerankings


def decoder_needs(policy: Policy, *, all_rows: bool = False) -> frozenset[str]:
    """Return the inputs of the policy's rankers inside the decoder.

    With `all_rows` no operation is dead, see `schedule`.

    Raises:
        PolicyError: A ranker that the policy names inside the decoder does not work there.
    """
    specs = {each.spec for each in decoder_rerankings(policy, all_rows=all_rows)}
    return frozenset(need for spec in specs for need in make_decoder_ranker(spec).needs)
