"""Rankings by attention received from [CLS] in the vision tower, the score of VisPruner and GSOP.

The score of a patch is the softmax attention from [CLS] to it, averaged over heads, in the layer
whose output the projector reads. Tokens that are not a single patch get their score when it is
captured, see opsearch/models/vision.py. Sources: VisPruner (ICCV 2025), GSOP (arXiv 2507.02909
v1), VisionZip (CVPR 2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opsearch.rankers.base import Prompt, ranking_from_scores
from opsearch.rankers.tiles import Tiles, ranks_by_score

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
