"""The batches of a run, in order.

Step s draws from `default_rng([STREAM, seed, rank, s])`: a resumed run continues with the same
pictures, and no stream of `opsearch.data.demo.generator` is used.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from training.batches import NAMES, Batch, draw
from training.schedule import TrainingSchedule

STREAM = 7001


class Feed(Dataset[Batch]):
    """Draws the batch of each step, on a machine with a GPU ahead of time in other processes.

    Attributes:
        weights: Sampling weights of the families, float32[families], shared with the processes.
            They draw a few steps ahead, so that a change takes effect after these steps.
    """

    def __init__(
        self, schedule: TrainingSchedule, seeds: list[int], pictures: int, slots: int, workers: int
    ) -> None:
        self.schedule, self.seeds, self.workers = schedule, seeds, workers
        self.pictures, self.slots = pictures, slots
        self.weights = torch.ones(len(NAMES)).share_memory_()

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng([STREAM, *self.seeds, step])
        if not self.schedule.asks(step):  # the question is unused
            return draw(rng, self.pictures, slots=1, weights=[1.0] * len(NAMES))
        return draw(rng, self.pictures, self.slots, self.weights.tolist())

    def batches(self, first: int) -> Iterable[Batch]:
        """Return the batches from step `first` to the end of the schedule."""
        steps = range(first, self.schedule.steps)
        return DataLoader(self, sampler=steps, batch_size=None, num_workers=self.workers)
