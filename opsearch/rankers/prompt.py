"""What a ranker may see of a prompt: never its answer."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(eq=False)
class Prompt:
    """One batch of prompts during its prefill.

    visual, real: bool[B, S]; n_visual: visual tokens of each sample; captured: what hooks took from
    the vision tower, e.g. "cls_attention": float[sum of n_visual], in the visual tokens' order.
    """

    visual: Tensor
    real: Tensor
    n_visual: tuple[int, ...]
    captured: dict[str, Tensor] = field(default_factory=dict)

    def scatter(self, per_token: Tensor) -> Tensor:
        """Scores of all visual tokens, float[sum of n_visual], at their positions, else -inf."""
        scores = torch.full(
            self.visual.shape, -torch.inf, dtype=torch.float32, device=self.visual.device
        )
        return scores.masked_scatter(self.visual, per_token.float())


def ranking_from_scores(scores: Tensor, visual: Tensor) -> Tensor:
    """Ranks by falling score (ties: earlier position first) on visual positions, -1 elsewhere.

    scores: float[B, S]; visual: bool[B, S]; returns int64[B, S].
    """
    lowest = torch.finfo(scores.dtype).min
    scores = scores.clamp(min=lowest).masked_fill(~visual, -torch.inf)
    order = torch.argsort(scores, dim=1, descending=True, stable=True)
    places = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter(1, order, places).masked_fill(~visual, -1)
