"""Evenly spaced tokens, a baseline that ignores the content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opsearch.rankers.base import Prompt, ranking_from_scores
from opsearch.rankers.upload import upload

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Uniform:
    """Ranking of n evenly spaced tokens first, then the others, both in sequence order.

    It selects the indices floor((i + 1/2) N / n), i < n, of N tokens. The selection depends on n:
    not nested.
    """

    nested = False
    needs = frozenset[str]()

    def rank(self, prompt: Prompt, n: Sequence[int]) -> Tensor:
        """Return the rank of each visual token, int64[B, S], see `Ranker.rank`."""
        import torch

        pairs = zip(prompt.n_visual, n, strict=True)
        scores = torch.cat([_evenly_spaced(total, kept) for total, kept in pairs])
        scores = upload(scores, prompt.visual.device)
        return ranking_from_scores(prompt.scatter(scores), prompt.visual)


def _evenly_spaced(total: int, kept: int) -> Tensor:
    """Return 1 for `kept` evenly spaced tokens and 0 for the others, float[total]."""
    import torch

    chosen = torch.zeros(total)
    if kept:
        chosen[(2 * torch.arange(kept) + 1) * total // (2 * kept)] = 1.0
    return chosen
