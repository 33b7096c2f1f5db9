"""VisionZip: the tokens of each tile that [CLS] attends to most. Source: VisionZip (CVPR 2025)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opsearch.rankers.base import Prompt
from opsearch.rankers.tiles import Tiles, ranks_by_score

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class VisionZip:
    """Ranking by attention received from [CLS], with the same share of each tile.

    These are the dominant tokens of VisionZip. For an image of one tile this is the ranking of
    `cls`, which otherwise compares the scores of all tiles. The contextual tokens of VisionZip are
    averages, which a ranking cannot express: here all n tokens are dominant, while the paper keeps
    54 dominant tokens and adds 10 averages.
    """

    nested = True
    needs = frozenset({"cls_attention", "tiles"})

    def rank(self, prompt: Prompt, n: Sequence[int]) -> Tensor:
        """Return the rank of each visual token, int64[B, S], see `Ranker.rank`."""
        tiles = Tiles.of(prompt, prompt.captured["tiles"])
        scores = tiles.gather(prompt.captured["cls_attention"])
        return tiles.ranking(ranks_by_score(scores, tiles.mask), prompt)
