"""Attention received from [CLS] in the vision tower, the score of VisPruner and GSOP.

The score of a patch is the softmax attention of [CLS] to it, averaged over heads, in the layer
whose output the projector reads; runtime/cls_attention.py says what tokens score that are no single
patch. Sources: VisPruner (ICCV 2025), GSOP (arXiv 2507.02909 v1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from opsearch.rankers.prompt import Prompt, ranking_from_scores


@dataclass(frozen=True)
class Cls:
    """Patches that [CLS] attends to most come first."""

    nested = True
    needs = frozenset({"cls_attention"})

    def rank(self, prompt: Prompt, n: Sequence[int]) -> Tensor:
        """Place of each visual token, int64[B, S], -1 elsewhere."""
        scores = prompt.scatter(prompt.captured["cls_attention"])
        return ranking_from_scores(scores, prompt.visual)
