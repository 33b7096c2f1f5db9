"""Options of a run, and its cost so far."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from training.schedule import TrainingSchedule

CHECKPOINT = "checkpoint.pt"
"""Name of the file in the folder of a run from which it resumes."""


@dataclass(frozen=True)
class Options:
    """Options of a run.

    Attributes:
        out: Folder of the run.
        start: Folder of a checkpoint to continue from; None for random weights.
        seed: Seed of weights and pictures.
        schedule: The course of the run.
        pictures: Pictures of one step, over all processes.
        slots: Questions about each picture.
        auxiliary: Weight of the heads' losses while questions are trained.
        compiled: True if layers are compiled.
        device: Device to train on.
        workers: Further processes that draw pictures ahead of time, each on its own core.
        processes: Processes that train together.
    """

    out: Path
    start: Path | None
    seed: int
    schedule: TrainingSchedule
    pictures: int = 32
    slots: int = 10
    auxiliary: float = 1.0
    compiled: bool = True
    device: str = "cpu"
    workers: int = 0
    processes: int = 1


@dataclass(frozen=True)
class TrainingCost:
    """Cost of a run so far.

    Attributes:
        steps: Steps taken.
        pictures: Pictures drawn.
        questions: Questions trained on.
        seconds: CPU seconds of all its processes together.
    """

    steps: int
    pictures: int
    questions: int
    seconds: float


def spent(options: Options) -> TrainingCost:
    """Return the cost of the run up to its last checkpoint."""
    state = torch.load(options.out / CHECKPOINT, weights_only=True, map_location="cpu")
    steps = int(state["step"])
    asking = sum(options.schedule.asks(step) for step in range(steps))
    pictures, questions = steps * options.pictures, asking * options.pictures * options.slots
    return TrainingCost(steps, pictures, questions, state["seconds"])
