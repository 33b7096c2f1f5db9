"""Rows of nodes of different sizes that lie one behind the other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from opsearch.measure.nodes import Ints
from opsearch.upload import upload


def starts(sizes: Ints) -> Ints:
    """Where each node's rows begin, int64[N]."""
    return np.cumsum(sizes) - sizes


def spans(first: Ints, sizes: Ints, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows first[i] .. first[i] + sizes[i] - 1 of all nodes i, and each one's place in its node."""
    place = np.arange(int(sizes.sum())) - np.repeat(starts(sizes), sizes)
    rows = np.repeat(first, sizes) + place
    return upload(rows, device), upload(place, device)


def equal(table: Ints, columns: int) -> Iterator[Ints]:
    """Parts of a sorted table int64[N, K] whose first `columns` columns are the same."""
    changes = np.flatnonzero((np.diff(table[:, :columns], axis=0) != 0).any(axis=1)) + 1
    yield from np.split(table, changes)
