"""Row sets: the sequence positions of a batch that an operation processes.

Attention uses the padded form [B, K] of a row set; all other operations use the flat, ragged rows
[R, D]. All sizes are known on the host, so building and using a set never synchronizes with the
device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from opsearch.rankers.upload import upload


@dataclass(frozen=True, eq=False)
class Rows:
    """Positions of each sample in sequence order.

    Attributes:
        index: Positions, int64[B, K]; unused slots of shorter samples come last and are arbitrary.
        sizes: Number of valid slots of each sample.
        length: Length S of the full sequence.
    """

    index: Tensor
    sizes: tuple[int, ...]
    length: int

    @classmethod
    def select(cls, keep: Tensor, sizes: Sequence[int]) -> Rows:
        """Return the positions where `keep` bool[B, S] is true; `sizes` are its row sums."""
        order = torch.argsort(~keep, dim=1, stable=True)
        return cls(order[:, : max(sizes)], tuple(sizes), keep.shape[1])

    @property
    def ragged(self) -> bool:
        """True if samples differ in size, so that the padded form has unused slots."""
        return len(set(self.sizes)) > 1

    @cached_property
    def slots(self) -> Tensor:
        """Valid slots of the flattened padded form, int64[R]."""
        width = self.index.shape[1]
        starts = enumerate(self.sizes)
        flat = torch.cat([torch.arange(b * width, b * width + size) for b, size in starts])
        return upload(flat, self.index.device)

    @cached_property
    def valid(self) -> Tensor:
        """Mask of the slots of the padded form that hold a row, bool[B, K]."""
        if not self.ragged:
            return torch.ones_like(self.index, dtype=torch.bool)
        sizes = upload(self.sizes, self.index.device)
        return torch.arange(self.index.shape[1], device=self.index.device) < sizes[:, None]

    @cached_property
    def flat(self) -> Tensor:
        """Indices into the flattened full batch [B * S, ...], int64[R], sample by sample."""
        start = torch.arange(len(self.sizes), device=self.index.device) * self.length
        flat = (start[:, None] + self.index).flatten()
        return flat[self.slots] if self.ragged else flat

    def unpad(self, padded: Tensor) -> Tensor:
        """Return the valid rows of [B, K, D] as [R, D]."""
        rows = padded.flatten(0, 1)
        return rows[self.slots] if self.ragged else rows

    def gather(self, per_position: Tensor) -> Tensor:
        """Gather these positions from [..., B or 1, S, D], [..., B, K, D]."""
        batch, width = self.index.shape
        leading, dim = per_position.shape[:-3], per_position.shape[-1]
        full = per_position.expand(*leading, batch, self.length, dim)
        index = self.index.view(*(1,) * len(leading), batch, width, 1)
        return full.gather(-2, index.expand(*leading, batch, width, dim))


@dataclass(frozen=True, eq=False)
class RowSubset:
    """Indices of a row set within the flat rows (the stream) of a set that contains it.

    Attributes:
        rows: Indices into the stream, int64[R]; None if the two sets are equal.
        padded: The same in padded form, int64[B, K], with unused slots at row 0; None if the stream
            only has to be reshaped.
    """

    rows: Tensor | None
    padded: Tensor | None

    @classmethod
    def of(cls, subset: Rows, stream: Rows) -> RowSubset:
        """Locate `subset` in the flat rows of `stream`."""
        same = subset.sizes == stream.sizes
        if same and not subset.ragged:
            return cls(None, None)
        batch = len(stream.sizes)
        total = sum(stream.sizes)
        device = stream.index.device
        where = torch.zeros(batch * stream.length, dtype=torch.long, device=device)
        where[stream.flat] = torch.arange(total, device=device)
        start = torch.arange(batch, device=device) * stream.length
        padded = where[(start[:, None] + subset.index)]
        return cls(None if same else where[subset.flat], padded)

    def pad(self, stream: Tensor, sizes: tuple[int, ...]) -> Tensor:
        """Return the rows from the stream [R, D] in padded form [B, K, D]."""
        if self.padded is None:
            return stream.view(len(sizes), sizes[0], stream.shape[-1])
        return stream[self.padded]

    def take(self, stream: Tensor) -> Tensor:
        """Return the rows from the stream [R, D] as [R_subset, D]."""
        return stream if self.rows is None else stream[self.rows]

    def add(self, stream: Tensor, update: Tensor) -> Tensor:
        """Return the stream with `update` [R_subset, D] added at these rows."""
        return stream + update if self.rows is None else stream.index_add(0, self.rows, update)
