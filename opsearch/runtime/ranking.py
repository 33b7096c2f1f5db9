"""From a prompt and the policies of its rows to a plan: who ranks, how many tokens, which rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from opsearch.errors import PolicyError
from opsearch.policy import Policy
from opsearch.rankers import Ranker, make_ranker
from opsearch.rankers.prompt import Prompt
from opsearch.runtime.plan import Plan, build_plan

_MANY_TOKENS = 10**6  # more than any sample has: to see which counts can be partial


def policy_ranker(policy: Policy) -> Ranker | None:
    """The ranker that acts before the decoder, None where the order never matters."""
    live = policy.live(_MANY_TOKENS)
    partial = set(live[(live > 0) & (live < _MANY_TOKENS)].tolist())
    inside = [f"{spec} before layer {r}" for r, spec in policy.rankers if r > 0]
    if inside:
        raise PolicyError(
            f"rankers inside the decoder are not supported yet ({', '.join(inside)}); "
            "use one before layer 0"
        )
    if not partial:
        return None
    if not policy.rankers:
        raise PolicyError(
            f"policy {policy.name} keeps a part of the visual tokens but names no ranker that says "
            "which; give it one, e.g. RankerSpec('uniform')"
        )
    ranker = make_ranker(policy.rankers[0][1])
    if len(partial) > 1 and not ranker.nested:
        raise PolicyError(
            f"ranker {policy.rankers[0][1]} gives another order for each count, but the policy "
            f"uses {len(partial)} different ones; use a nested one such as cls, divprune or random"
        )
    return ranker


def rank_and_plan(prompt: Prompt, policies: Sequence[Policy], ranker: Ranker | None) -> Plan:
    """The plan of a batch whose row b follows policies[b]; all share one ranker."""
    pairs = list(zip(policies, prompt.n_visual, strict=True))
    counts = np.stack([policy.executed(n) for policy, n in pairs])
    rank = torch.where(prompt.visual, 0, -1)
    if ranker is not None:
        kept = [
            int(row[row < n].max(initial=0)) for row, n in zip(counts, prompt.n_visual, strict=True)
        ]
        rank = ranker.rank(prompt, kept)
    return build_plan(prompt.visual, prompt.real, rank, counts)


def per_row(values: Tensor, n_visual: Sequence[int]) -> Tensor:
    """Values of all visual tokens, repeated as generate() repeats its samples for beams."""
    copies = sum(n_visual) // len(values)
    if copies == 1:
        return values
    parts = values.split(list(n_visual[::copies]))
    return torch.cat([part for part in parts for _ in range(copies)])
