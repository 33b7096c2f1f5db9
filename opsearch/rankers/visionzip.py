"""VisionZip's dominant tokens: the tokens of each tile that [CLS] attends to most.

For an image of one tile this is the ranking of `cls`. With several tiles, each tile keeps the same
share, whereas `cls` compares the scores of all tiles. VisionZip's contextual tokens are averages,
which a ranking cannot express: here all n tokens are dominant, while the paper keeps 54 dominant
tokens and adds 10 averages. [CLS] itself is not part of the decoder's prompt in these families.
Source: VisionZip (CVPR 2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from opsearch.rankers.prompt import Prompt
from opsearch.rankers.tiles import Tiles, ranks_by_score


@dataclass(frozen=True)
class VisionZip:
    """Ranking by attention received from [CLS], with the same share of each tile."""

    nested = True
    needs = frozenset({"cls_attention", "tiles"})

    def rank(self, prompt: Prompt, n: Sequence[int]) -> Tensor:
        """Return the rank of each visual token, int64[B, S], see `Ranker.rank`."""
        tiles = Tiles.of(prompt, prompt.captured["tiles"])
        scores = tiles.gather(prompt.captured["cls_attention"])
        return tiles.ranking(ranks_by_score(scores, tiles.mask), prompt)
