"""The rows of measurements.db."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CALIBRATION, HELD_OUT = "calibration", "held-out"
COMPARED, COMPARED_CALIBRATION = "compared", "compared calibration"
"""Names of splits; those of a comparison stay with it when the run's own samples change."""
COLUMNS = ("kl", "reverse_kl", "js", "top1")
Masses = NDArray[np.float32]
"""What visual tokens get of the original's attention, see `opsearch.measure.attention`."""


@dataclass(frozen=True)
class Measurement:
    """One policy on one sample; policy is the canonical key, item the item's digest."""

    policy: str
    item: str
    kl: float
    reverse_kl: float
    js: float
    top1: float


@dataclass(frozen=True)
class StoredAnswer:
    """What was generated for an item under a policy, and its score between 0 and 1."""

    policy: str
    item: str
    text: str
    score: float


@dataclass(frozen=True)
class Compared:
    """A method's policy for a budget, as the text of its file."""

    budget: str
    method: str
    policy: str


@dataclass(frozen=True)
class StoredSample:
    """A sample of a run as analysis needs it: no pictures, no text."""

    item: str
    name: str
    family: str
    n_visual: int
    n_other: int
