"""Picture questions without end: item i of a split and a seed is always the same one.

Each item has a random stream of its own, `default_rng([number of the split, seed, index])`, and
each split its own handwritten digits, so no item of one split comes back in another.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opsearch.demo.canvas import develop
from opsearch.demo.digits import SCANS
from opsearch.demo.families import FAMILIES
from opsearch.demo.scene import Scene

SPLITS = tuple(SCANS)
"""train, calibration, held-out, test."""


@dataclass(frozen=True)
class Example:
    """One picture question, with the scene that the picture shows.

    pixels: uint8[80, 80, 3], red-green-blue.
    """

    family: str
    scene: Scene
    pixels: NDArray[np.uint8]
    question: str
    answer: str


def item(split: str, seed: int, index: int) -> Example:
    """Return one item; items go round the families, so the first 15 n hold n of each.

    Raises ValueError when the split is unknown or a number is negative.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; available: {', '.join(SPLITS)}")
    rng = np.random.default_rng([SPLITS.index(split), seed, index])
    name = tuple(FAMILIES)[index % len(FAMILIES)]
    family = FAMILIES[name]
    question = None
    while question is None:  # some scenes leave this family nothing to ask
        scene = family.scene.sample(rng, SCANS[split])
        question = family.ask(scene, rng)
    return Example(name, scene, develop(scene.draw(), rng), question.text, question.answer)
