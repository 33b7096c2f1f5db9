"""Endless picture questions: split, seed and index determine a sample.

Each sample has its own random stream, `default_rng([number of the split, seed, index])`, and each
split its own handwritten digits, so no sample occurs in two splits.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opsearch.data.demo.canvas import develop
from opsearch.data.demo.digits import SCANS
from opsearch.data.demo.families import FAMILIES
from opsearch.data.demo.scene import Scene

SPLITS = tuple(SCANS)
"""The splits: train, calibration, held-out, test."""


@dataclass(frozen=True)
class Example:
    """One picture question, with the scene of its picture.

    Attributes:
        family: Name of its family.
        scene: The scene.
        pixels: The picture, RGB, uint8[80, 80, 3].
        question: The question.
        answer: Its answer, one word.
    """

    family: str
    scene: Scene
    pixels: NDArray[np.uint8]
    question: str
    answer: str


def item(split: str, seed: int, index: int) -> Example:
    """Return one sample; families alternate, so the first 15 n samples hold n of each.

    Raises:
        ValueError: The split is unknown or a number is negative.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; available: {', '.join(SPLITS)}")
    rng = np.random.default_rng([SPLITS.index(split), seed, index])
    name = tuple(FAMILIES)[index % len(FAMILIES)]
    family = FAMILIES[name]
    question = None
    while question is None:  # some scenes allow no question of this family
        scene = family.scene.sample(rng, SCANS[split])
        question = family.ask(scene, rng)
    return Example(name, scene, develop(scene.draw(), rng), question.text, question.answer)
