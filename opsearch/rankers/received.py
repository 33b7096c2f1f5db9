"""Ranking by attention received from all patches of the image in one layer of the vision tower.

Unlike attention from [CLS], every vision tower has it. Middle layers attend to objects and late
ones to tokens that carry the image as a whole: HiPrune takes anchors from the former and registers
from the latter, and in its ablation anchors alone keep more accuracy than registers alone. The
default is therefore the last layer of the first half of the tower; where most layers attend within
windows, the nearest one that attends to the whole image. A token that is a square of patches has
their mean. Tokens of all images of a prompt compete; the mean score of each image is about 1.
Source: HiPrune (arXiv 2508.00553).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opsearch.errors import echo
from opsearch.rankers.base import RECEIVED, Prompt, ranking_from_scores

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Received:
    """Ranking by attention received in a layer of the vision tower.

    Attributes:
        layer: Index of the layer, negative from the end, or a share of the tower's depth, above 0
            and at most 1, e.g. 0.5.
        nested: See `Ranker`.
    """

    layer: float = 0.5
    nested = True

    def __post_init__(self) -> None:
        share = isinstance(self.layer, float) and 0 < self.layer <= 1
        index = isinstance(self.layer, int) and not isinstance(self.layer, bool)
        if not (share or index):
            raise TypeError(
                f"layer={echo(self.layer)} is neither the index of a vision layer nor a share of "
                "their number above 0 and at most 1, e.g. 0.5"
            )

    @property
    def needs(self) -> frozenset[str]:
        """Inputs of the ranker."""
        return frozenset({f"{RECEIVED}{self.layer}"})

    def rank(self, prompt: Prompt, n: Sequence[int]) -> Tensor:
        """Return the rank of each visual token, int64[B, S], see `Ranker.rank`."""
        scores = prompt.scatter(prompt.captured[f"{RECEIVED}{self.layer}"])
        return ranking_from_scores(scores, prompt.visual)
