"""FLOPs of a whole prefill: vision tower, projector, decoder with its rankers, one lm_head row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from opsearch.costs.base import CostLabel, CostSettings
from opsearch.costs.exact import Integers
from opsearch.costs.flops import Flops
from opsearch.costs.rankings import ranking_flops_of
from opsearch.costs.shape import Shape
from opsearch.formatting import screen_repr
from opsearch.policy.counts import Candidates, Counts
from opsearch.policy.schedule import RerankingTable


@dataclass(frozen=True)
class Prefill:
    """FLOPs of the whole prefill: vision tower and projector, and the live decoder operations.

    The tower's part depends on the images of a sample and not on the policy: `of_images` adds it.
    `of_rankings` adds rankers inside the decoder.

    Attributes:
        shape: Dimensions of the decoder.
    """

    shape: Shape

    name: ClassVar[str] = "prefill"
    unit: ClassVar[str] = "FLOPs"
    label: ClassVar[CostLabel] = CostLabel(
        "+ vision, mean", "+ vision, %", words="prefill compute with vision"
    )
    timed: ClassVar[bool] = False

    __repr__ = screen_repr

    @classmethod
    def from_settings(cls, settings: CostSettings) -> Prefill:
        """Return the cost for a decoder of this shape."""
        return cls(settings.shape)

    def of(
        self, counts: Counts, n_visual: int, n_other: int, candidates: Candidates | None = None
    ) -> Integers:
        """Return the FLOPs of the decoder, see `Flops.of`, without its images and rankers."""
        return Flops(self.shape).of(counts, n_visual, n_other, candidates)

    def stock(self, n_visual: int, n_other: int) -> int:
        """Return the FLOPs of the original decoder; `of_images` is not part of them."""
        return Flops(self.shape).stock(n_visual, n_other)

    def of_images(self, image_flops: int) -> int:
        """Return what the images of a sample add: all FLOPs of vision tower and projector."""
        return image_flops

    def of_rankings(self, rerankings: RerankingTable, n_visual: int, n_other: int) -> Integers:
        """Return what the rankers inside the decoder add for each policy, [P]."""
        return ranking_flops_of(rerankings, n_visual, n_other, self.shape)
