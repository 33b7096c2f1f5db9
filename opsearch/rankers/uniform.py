"""Evenly spaced tokens: the baseline that looks at nothing.

To keep n of N tokens it takes floor((i + 1/2) N / n) for i < n, so another n gives another choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from opsearch.rankers.prompt import Prompt, ranking_from_scores
from opsearch.upload import upload


@dataclass(frozen=True)
class Uniform:
    """n evenly spaced tokens first, then the others, both in order."""

    nested = False
    needs: frozenset[str] = frozenset()

    def rank(self, prompt: Prompt, n: Sequence[int]) -> Tensor:
        """Place of each visual token, int64[B, S], -1 elsewhere; places < n[b] are promised."""
        pairs = zip(prompt.n_visual, n, strict=True)
        chosen = torch.cat([_evenly(total, kept) for total, kept in pairs])
        chosen = upload(chosen, prompt.visual.device)
        return ranking_from_scores(prompt.scatter(chosen), prompt.visual)


def _evenly(total: int, kept: int) -> Tensor:
    """1 for the evenly spaced tokens, 0 for the others, float[total]."""
    chosen = torch.zeros(total)
    if kept:
        chosen[(2 * torch.arange(kept) + 1) * total // (2 * kept)] = 1.0
    return chosen
