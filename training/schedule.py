"""Schedule of a run: phases, learning rates, and sampling of families."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from training.batches import NAMES

CHANCE = {
    "color": 0.2,
    "shape": 0.22,
    "exist": 0.5,
    "count": 0.3,
    "spatial": 0.27,
    "relation": 0.2,
    "digit_color": 0.11,
    "digit_pos": 0.12,
    "digit_max": 0.33,
    "digit_cmp": 0.5,
    "bar_tall": 0.2,
    "bar_value": 0.12,
    "bar_cmp": 0.5,
    "letter": 0.07,
    "word": 0.05,
}
"""Approximate accuracy of guessing, by family."""


@dataclass(frozen=True)
class TrainingSchedule:
    """The course of a run.

    Attributes:
        steps: Length of the run.
        vision: Share of the run, at its start, without questions.
        rate: Factor on the learning rates while questions are trained.
        decay: Share of the run, at its end, over which the factor falls to zero.
        warm_up: Steps over which the factor rises at the start.
    """

    steps: int
    vision: float = 0.24
    rate: float = 0.5
    decay: float = 0.24
    warm_up: int = 60

    def asks(self, step: int) -> bool:
        """Return whether questions are trained in this step."""
        return step >= self.vision * self.steps

    def factor(self, step: int) -> float:
        """Return the factor on the learning rates."""
        level = self.rate if self.asks(step) else 1.0
        left = (1 - step / self.steps) / self.decay
        return level * min(1.0, (step + 1) / self.warm_up, left)


class FamilyWeights:
    """Sampling weights of families, larger for those with lower accuracy.

    Attributes:
        asked: Recent questions, float32[families], with exponential decay.
        right: Recent right answers, float32[families], with exponential decay.
        chance: Accuracy of guessing, float32[families].
    """

    def __init__(self) -> None:
        self.asked = torch.full((len(NAMES),), 2.0)
        self.chance = torch.tensor([CHANCE[name] for name in NAMES])
        self.right = self.chance * self.asked

    def update(self, counts: Tensor) -> None:
        """Add the right and the asked questions of one step, float32[2, families]."""
        self.right.mul_(0.98).add_(counts[0])
        self.asked.mul_(0.98).add_(counts[1])

    def accuracy(self) -> Tensor:
        """Return the recent accuracy of each family."""
        return self.right / self.asked

    def weights(self) -> Tensor:
        """Return the unnormalised sampling weights of the families."""
        skill = ((self.accuracy() - self.chance) / (1 - self.chance)).clamp(min=0)
        return (1.1 - skill).clamp(min=0.15)
