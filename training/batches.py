"""Batches of pictures and questions as tensors, from the package's own generator.

Scenes, pictures and questions are those of `opsearch.data.demo`, so training and test data have
the same distribution, except that families with low accuracy are sampled more often.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from opsearch.data.demo.canvas import develop
from opsearch.data.demo.digits import SCANS
from opsearch.data.demo.families import FAMILIES
from opsearch.data.demo.scene import Scene
from training.packing import IDS, SLOT, fill_slot, words_of
from training.things import NAMING, PLACES, Thing, label_tokens, things

NAMES = tuple(FAMILIES)
SCENES: tuple[type[Scene], ...] = tuple(dict.fromkeys(f.scene for f in FAMILIES.values()))
FAMILIES_OF = tuple([i for i, n in enumerate(NAMES) if FAMILIES[n].scene is s] for s in SCENES)


@dataclass(frozen=True)
class Batch:
    """B pictures with K questions each.

    Attributes:
        pixels: float32[B, 3, 80, 80], -1 to 1.
        scene: Index into SCENES, int64[B].
        kind: Labels of the visual tokens, int64[B, V].
        color: Labels of the visual tokens, int64[B, V].
        neighbors: Labels of the visual tokens, int64[B, V, 4].
        tokens: int64[B, K, SLOT].
        asked: Position in the slot from which the answer is predicted, int64[B, K].
        answer: Token ids, int64[B, K].
        family: Index into NAMES, int64[B, K].
        refers: Words that end a mention of things ("blue ring"), bool[B, K, SLOT].
        places: 1 at the places of the mentioned things, float32[B, K, SLOT, PLACES].
    """

    pixels: Tensor
    scene: Tensor
    kind: Tensor
    color: Tensor
    neighbors: Tensor
    tokens: Tensor
    asked: Tensor
    answer: Tensor
    family: Tensor
    refers: Tensor
    places: Tensor

    def to(self, device: torch.device) -> Batch:
        """Move the batch to a device."""
        return Batch(*(getattr(self, f.name).to(device, non_blocking=True) for f in fields(self)))


def draw(rng: Generator, pictures: int, slots: int, weights: Sequence[float]) -> Batch:
    """Draw a batch with families, and so scenes, in proportion to their weights.

    Half of the pictures are distributed evenly, so that no kind of scene is forgotten.
    """
    share = np.array([sum(weights[i] for i in families) for families in FAMILIES_OF])
    share = share / share.sum() + 1 / len(SCENES)
    rows = [_picture(rng, s, slots, weights) for s in spread(rng, share, pictures)]
    columns = zip(*rows, strict=True)
    return Batch(*(torch.from_numpy(np.stack(column)) for column in columns))


def spread(rng: Generator, weights: Sequence[float], count: int) -> list[int]:
    """Draw `count` indices, each in proportion to its weight, give or take one."""
    edges = np.cumsum(weights) / np.sum(weights)
    found = np.searchsorted(edges, (np.arange(count) + rng.random()) / count, side="right")
    return [min(int(i), len(edges) - 1) for i in found]


def _picture(rng: Generator, number: int, slots: int, weights: Sequence[float]) -> tuple[Any, ...]:
    scene = SCENES[number].sample(rng, SCANS["train"])
    shown = things(scene)
    labels = label_tokens(shown)
    pixels = develop(scene.draw(), rng).transpose(2, 0, 1).astype(np.float32) / 127.5 - 1
    families = FAMILIES_OF[number]
    planned = [families[k] for k in spread(rng, [weights[i] for i in families], slots)]
    questions = [_question(rng, scene, shown, [family, *families]) for family in planned]
    picture = (pixels, np.int64(number), labels.kind, labels.color, labels.neighbors)
    return *picture, *(np.stack(column) for column in zip(*questions, strict=True))


def _question(
    rng: Generator, scene: Scene, shown: list[Thing], families: list[int]
) -> tuple[Any, ...]:
    """Return a question of the first of the families that has one about this scene."""
    for family in families:
        question = FAMILIES[NAMES[family]].ask(scene, rng)
        if question is not None:
            ids, asked = fill_slot(question.text, question.answer)
            mentions = mentioned(question.text, shown, NAMING[type(scene)])
            answer = IDS[question.answer]
            return (np.array(ids), np.int64(asked), np.int64(answer), np.int64(family), *mentions)
    raise ValueError(f"no question can be asked about {scene}")


def mentioned(
    question: str, shown: list[Thing], naming: frozenset[str]
) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Return the words that end a mention of things, and the places of these things.

    A mention is a run of words of `naming`, as "blue ring"; it refers to all things with every one
    of these names, perhaps none.

    Args:
        question: The question.
        shown: Things in the picture.
        naming: Words by which questions refer to things.

    Returns:
        bool[SLOT] and float32[SLOT, PLACES].
    """
    refers, places = np.zeros(SLOT, np.bool_), np.zeros((SLOT, PLACES), np.float32)
    words = words_of(question)
    referents = shown
    for i, word in enumerate(words):
        if word in naming:
            referents = [thing for thing in referents if word in thing.names]
            refers[i] = words[i + 1] not in naming
            for thing in referents if refers[i] else []:
                places[i, thing.place] = 1
        else:
            referents = shown
    return refers, places
