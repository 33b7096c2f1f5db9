"""VisionZip's dominant tokens: those of each tile that [CLS] attends to most.

On a picture that is one tile this is the order of `cls`; of several tiles every one keeps the same
share, where `cls` compares the scores of all. Its contextual tokens are averages, so no ranking can
hold them: the n tokens are all dominant here, where the paper keeps 54 and adds 10 averages. [CLS]
itself is no token of the decoder's prompt on these families. Source: VisionZip (CVPR 2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from opsearch.rankers.prompt import Prompt
from opsearch.rankers.tiles import Tiles, places_by_score


@dataclass(frozen=True)
class VisionZip:
    """Patches that [CLS] attends to most, equally many of each tile."""

    nested = True
    needs = frozenset({"cls_attention", "tiles"})

    def rank(self, prompt: Prompt, n: Sequence[int]) -> Tensor:
        """Place of each visual token, int64[B, S], -1 elsewhere."""
        tiles = Tiles.of(prompt, prompt.captured["tiles"])
        scores = tiles.gather(prompt.captured["cls_attention"])
        return tiles.ranking(places_by_score(scores, tiles.mask), prompt)
