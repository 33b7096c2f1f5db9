"""Data-parallel training with one process per core.

On two cores, two processes of one thread each are faster than one process of two threads.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing.spawn import spawn


class ProcessGroup:
    """The processes of a run, from the view of the one with number `rank`."""

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    def average(self, gradients: dict[str, Tensor], counts: Tensor) -> Tensor:
        """Replace gradients by their means over the processes; return the mean of the counts."""
        if self.size == 1:
            return counts
        parts = [*gradients.values(), counts]
        flat = torch.cat([part.flatten() for part in parts])
        dist.all_reduce(flat)
        flat /= self.size
        pieces = flat.split([part.numel() for part in parts])
        for name, piece in zip(gradients, pieces[:-1], strict=True):
            gradients[name] = piece.view_as(gradients[name])
        means: Tensor = pieces[-1].view_as(counts)
        return means

    def say(self, text: str) -> None:
        """Print a line, once for all processes."""
        if self.rank == 0:
            print(text, flush=True)


def run_in_group(size: int, work: Callable[[ProcessGroup], None]) -> None:
    """Run `work` in `size` processes at once and wait; it must be picklable when size > 1."""
    if size == 1:
        work(ProcessGroup(0, 1))
        return
    with tempfile.TemporaryDirectory() as folder:
        spawn(_join, args=(size, Path(folder) / "meeting", work), nprocs=size)


def _join(rank: int, size: int, meeting: Path, work: Callable[[ProcessGroup], None]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    try:
        work(ProcessGroup(rank, size))
    finally:
        dist.destroy_process_group()
