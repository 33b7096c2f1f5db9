"""What a run is asked to do, and what it has taken."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from opsearch.demo.training.schedule import Schedule

CHECKPOINT = "checkpoint.pt"
"""Name of the file, in the folder of a run, from which it is resumed."""


@dataclass(frozen=True)
class Options:
    """What a run is started with.

    start: folder of a checkpoint to go on from; None to start from nothing.
    pictures: pictures of one step, over all processes; slots: questions about each.
    auxiliary: weight of the heads' losses while questions are learned.
    processes: processes that learn together.
    workers: further processes that draw pictures ahead of time, each on a core of its own.
    """

    out: Path
    start: Path | None
    seed: int
    schedule: Schedule
    pictures: int = 32
    slots: int = 10
    auxiliary: float = 1.0
    compiled: bool = True
    device: str = "cpu"
    workers: int = 0
    processes: int = 1


@dataclass(frozen=True)
class Cost:
    """What a run has taken so far; `seconds` are CPU seconds of all its processes together."""

    steps: int
    pictures: int
    questions: int
    seconds: float


def spent(options: Options) -> Cost:
    """Return what the run has taken up to its last checkpoint."""
    state = torch.load(options.out / CHECKPOINT, weights_only=True, map_location="cpu")
    steps = int(state["step"])
    asking = sum(options.schedule.asks(step) for step in range(steps))
    pictures, questions = steps * options.pictures, asking * options.pictures * options.slots
    return Cost(steps, pictures, questions, state["seconds"])
