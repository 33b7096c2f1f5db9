"""Auxiliary linear heads on hidden states, discarded after training.

On answers alone, the model learns nothing for a long time. The heads read at staggered depths and
so determine how deep the visual computation of each task reaches: see the model card.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, rms_norm

from opsearch.data.demo.scene_chart import ChartScene
from opsearch.data.demo.scene_digits import DigitsScene
from opsearch.data.demo.scene_shapes import ShapesScene
from opsearch.data.demo.scene_text import TextScene
from opsearch.data.demo.vocabulary import COLORS
from training.batches import SCENES
from training.model import VISION_WIDTH, WIDTH, slots_of, visual_of
from training.things import KINDS, PLACES

COLOR_AFTER = 2
KIND_AFTER = {ShapesScene: 3, ChartScene: 5, TextScene: 6, DigitsScene: 10}
PLACES_AFTER = 8
NEIGHBORS_AFTER = 9
"""Decoder layers (counted from 1) after which the heads read."""
LAST = max(COLOR_AFTER, *KIND_AFTER.values(), NEIGHBORS_AFTER)
"""The deepest layer that a head on visual tokens reads."""


@dataclass(frozen=True)
class Predictions:
    """Logits of the heads.

    Attributes:
        present: [B, kinds + colors].
        color: [B, V, 1 + colors].
        kind: [B, V, 1 + kinds].
        neighbors: [B, V, 4, 1 + colors].
        places: [B, K, SLOT, PLACES], None without questions.
    """

    present: Tensor
    color: Tensor
    kind: Tensor
    neighbors: Tensor
    places: Tensor | None


class Heads(nn.Module):
    """All heads, initialised to zero, so that they do not disturb the model at first."""

    def __init__(self) -> None:
        super().__init__()
        self.present = nn.Linear(VISION_WIDTH, len(KINDS) + len(COLORS))
        self.color = nn.Linear(WIDTH, 1 + len(COLORS))
        self.kind = nn.ModuleList(nn.Linear(WIDTH, 1 + len(KINDS)) for _ in SCENES)
        self.neighbors = nn.Linear(WIDTH, 4 * (1 + len(COLORS)))
        self.places = nn.Linear(WIDTH, len(SCENES) * PLACES)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def forward(self, cls: Tensor, states: list[Tensor], scene: Tensor, slots: int) -> Predictions:
        """Predict from the tower's CLS and the states after each decoder layer."""
        picture = torch.arange(len(scene), device=scene.device)
        kinds = [
            head(_visual(states, KIND_AFTER[kind]))
            for head, kind in zip(self.kind, SCENES, strict=True)
        ]
        neighbors = self.neighbors(_visual(states, NEIGHBORS_AFTER)).unflatten(-1, (4, -1))
        places = None
        if slots:
            everywhere = self.places(_normal(slots_of(states[PLACES_AFTER - 1], slots)))
            places = everywhere.unflatten(-1, (len(SCENES), -1))[picture, :, :, scene].float()
        return Predictions(
            present=self.present(layer_norm(cls, cls.shape[-1:])).float(),
            color=self.color(_visual(states, COLOR_AFTER)).float(),
            kind=torch.stack(kinds)[scene, picture].float(),
            neighbors=neighbors.float(),
            places=places,
        )


def _visual(states: list[Tensor], after: int) -> Tensor:
    return _normal(visual_of(states[after - 1]))


def _normal(states: Tensor) -> Tensor:
    return rms_norm(states, states.shape[-1:])
