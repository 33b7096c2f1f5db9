"""Ranking by attention received from [CLS] in the vision tower, the score of VisPruner and GSOP.

The score of a patch is the softmax attention from [CLS] to it, averaged over heads, in the layer
whose output the projector reads. Tokens that are not a single patch get their score when it is
captured, see opsearch/models/vision.py. Sources: VisPruner (ICCV 2025), GSOP (arXiv 2507.02909
v1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opsearch.rankers.base import Prompt, ranking_from_scores

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Cls:
    """Ranking by attention received from [CLS]."""

    nested = True
    needs = frozenset({"cls_attention"})

    def rank(self, prompt: Prompt, n: Sequence[int]) -> Tensor:
        """Return the rank of each visual token, int64[B, S], see `Ranker.rank`."""
        scores = prompt.scatter(prompt.captured["cls_attention"])
        return ranking_from_scores(scores, prompt.visual)
