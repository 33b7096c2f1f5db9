"""Index arithmetic for nodes of different sizes whose rows are concatenated."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from opsearch.measure.nodes import Ints
from opsearch.rankers.upload import upload


def starts(sizes: Ints) -> Ints:
    """Return the first row of each node, int64[N]."""
    return np.cumsum(sizes) - sizes


def spans(first: Ints, sizes: Ints, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return rows first[i] .. first[i] + sizes[i] - 1 of all nodes i, and each row's offset."""
    offset = np.arange(int(sizes.sum())) - np.repeat(starts(sizes), sizes)
    rows = np.repeat(first, sizes) + offset
    return upload(rows, device), upload(offset, device)


def equal_runs(table: Ints, columns: int) -> Iterator[Ints]:
    """Yield runs of a sorted table int64[N, K] with equal values in the first columns."""
    changes = np.flatnonzero((np.diff(table[:, :columns], axis=0) != 0).any(axis=1)) + 1
    yield from np.split(table, changes)
