"""Which rows of a batch an operation works on.

A `Rows` is a set of sequence positions per sample. Attention needs it padded, [B, K]; everything
else works on the flat, ragged rows, [R, D]. All sizes are known on the host before, so that
building and using a set never waits for the device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from opsearch.upload import upload


@dataclass(frozen=True, eq=False)
class Rows:
    """Positions per sample in original order.

    index: int64[B, K] positions, slack slots of shorter samples last and arbitrary.
    sizes: number of valid slots of each sample. length: S of the full sequence.
    """

    index: Tensor
    sizes: tuple[int, ...]
    length: int

    @classmethod
    def select(cls, keep: Tensor, sizes: Sequence[int]) -> Rows:
        """The positions where keep[B, S] is true; `sizes` are its row sums, known on the host."""
        order = torch.argsort(~keep, dim=1, stable=True)
        return cls(order[:, : max(sizes)], tuple(sizes), keep.shape[1])

    @property
    def ragged(self) -> bool:
        """Whether samples differ in size, so that the padded form has slack slots."""
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
        """Which slots of the padded form hold a row, bool[B, K]."""
        if not self.ragged:
            return torch.ones_like(self.index, dtype=torch.bool)
        sizes = upload(self.sizes, self.index.device)
        return torch.arange(self.index.shape[1], device=self.index.device) < sizes[:, None]

    @cached_property
    def flat(self) -> Tensor:
        """Rows of the flattened full batch [B * S, ...], int64[R], sample by sample."""
        start = torch.arange(len(self.sizes), device=self.index.device) * self.length
        everything = (start[:, None] + self.index).flatten()
        return everything[self.slots] if self.ragged else everything

    def unpad(self, padded: Tensor) -> Tensor:
        """The valid rows of [B, K, D] as [R, D]."""
        rows = padded.flatten(0, 1)
        return rows[self.slots] if self.ragged else rows

    def gather(self, per_position: Tensor) -> Tensor:
        """Rows of a [..., B or 1, S, D] tensor at these positions, [..., B, K, D]."""
        batch, width = self.index.shape
        leading, dim = per_position.shape[:-3], per_position.shape[-1]
        full = per_position.expand(*leading, batch, self.length, dim)
        index = self.index.view(*(1,) * len(leading), batch, width, 1)
        return full.gather(-2, index.expand(*leading, batch, width, dim))


@dataclass(frozen=True, eq=False)
class Within:
    """Where the rows of a set stand in the flat stream of a set that contains it.

    rows: int64[R] positions in the stream, None when the two sets are equal.
    padded: int64[B, K] the same in padded form, slack slots pointing at row 0.
    """

    rows: Tensor | None
    padded: Tensor | None

    @classmethod
    def of(cls, inner: Rows, stream: Rows) -> Within:
        """Locate `inner` in the flat stream of the rows `stream`."""
        same = inner.sizes == stream.sizes
        if same and not inner.ragged:
            return cls(None, None)
        batch = len(stream.sizes)
        total = sum(stream.sizes)
        device = stream.index.device
        where = torch.zeros(batch * stream.length, dtype=torch.long, device=device)
        where[stream.flat] = torch.arange(total, device=device)
        start = torch.arange(batch, device=device) * stream.length
        padded = where[(start[:, None] + inner.index)]
        return cls(None if same else where[inner.flat], padded)

    def pad(self, stream: Tensor, sizes: tuple[int, ...]) -> Tensor:
        """Rows of the stream [R, D] in padded form [B, K, D]."""
        if self.padded is None:
            return stream.view(len(sizes), sizes[0], stream.shape[-1])
        return stream[self.padded]

    def take(self, stream: Tensor) -> Tensor:
        """Rows of the stream [R, D] as [R_inner, D]."""
        return stream if self.rows is None else stream[self.rows]

    def add(self, stream: Tensor, update: Tensor) -> Tensor:
        """The stream with `update` [R_inner, D] added at these rows."""
        return stream + update if self.rows is None else stream.index_add(0, self.rows, update)
