"""Losses on answers and of the auxiliary heads."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot

from opsearch.data.demo.scene_shapes import ShapesScene
from opsearch.data.demo.vocabulary import COLORS
from training.batches import SCENES, Batch
from training.heads import Predictions
from training.model import logits, slots_of
from training.packing import IDS
from training.things import KINDS

_BACKGROUND = 0.1  # weight of visual tokens of the background
_SHAPES_SCENE = SCENES.index(ShapesScene)  # the only one that labels neighbors


def answer_loss(model: Any, last: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the loss on the questions, and which of them are answered right, bool[B, K].

    The answer is predicted from its usual position and also from the last word before the "?",
    which trains attention faster; <eos> follows it.
    """
    slots = slots_of(last, batch.tokens.shape[1])
    places = torch.stack([batch.asked, batch.asked - 2, batch.asked + 1], 2)
    rows = slots.gather(2, places[..., None].expand(-1, -1, -1, slots.shape[-1]))
    answer, early, after = logits(model, rows).unbind(2)
    end = torch.full_like(batch.answer, IDS["<eos>"])
    loss = (
        cross_entropy(answer.flatten(0, 1), batch.answer.flatten())
        + 0.5 * cross_entropy(early.flatten(0, 1), batch.answer.flatten())
        + 0.1 * cross_entropy(after.flatten(0, 1), end.flatten())
    )
    return loss, answer.argmax(-1) == batch.answer


def picture_loss(predicted: Predictions, batch: Batch) -> Tensor:
    """Return the loss of the heads on visual tokens and CLS."""
    shows = (batch.kind > 0).float()
    weight = shows + _BACKGROUND * (1 - shows)
    color = _mean(_cross_entropies(predicted.color, batch.color), weight)
    kind_entropies = _cross_entropies(predicted.kind, batch.kind)
    kind = torch.stack(
        [_mean(kind_entropies, weight * (batch.scene == s)[:, None]) for s in range(len(SCENES))]
    ).mean()
    of_shapes = (shows * (batch.scene == _SHAPES_SCENE)[:, None])[..., None].expand(
        batch.neighbors.shape
    )
    neighbors = _mean(_cross_entropies(predicted.neighbors, batch.neighbors), of_shapes)
    present = binary_cross_entropy_with_logits(predicted.present, _present(batch))
    return color + kind + 0.5 * neighbors + 4 * present


def place_loss(predicted: Predictions, batch: Batch) -> Tensor:
    """Return the loss of the head that locates, at words that mention things, these things."""
    assert predicted.places is not None
    wrong = binary_cross_entropy_with_logits(predicted.places, batch.places, reduction="none")
    return _mean(wrong.sum(-1), batch.refers.float())


def _cross_entropies(predicted: Tensor, truth: Tensor) -> Tensor:
    flat = cross_entropy(predicted.flatten(0, -2), truth.flatten(), reduction="none")
    return flat.view(truth.shape)


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum() / weight.sum().clamp(min=1)


def _present(batch: Batch) -> Tensor:
    """Return which kinds and colours a picture shows, float32[B, kinds + colors]."""
    kinds = one_hot(batch.kind, 1 + len(KINDS)).amax(1)[:, 1:]
    colors = one_hot(batch.color, 1 + len(COLORS)).amax(1)[:, 1:]
    return torch.cat([kinds, colors], 1).float()
