"""Bytes of the KV cache after the prefill of one sample."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from opsearch.costs.base import CostLabel, CostSettings
from opsearch.costs.exact import Integers, within
from opsearch.costs.shape import Shape
from opsearch.formatting import screen_repr
from opsearch.policy.counts import KV, Candidates, Counts


@dataclass(frozen=True)
class KVBytes:
    """Bytes of all keys and values that the layers store, of visual and other tokens.

    Only the kv counts matter. They are always live: a layer stores the keys and values of all
    tokens it attends to, even if it does not update them.

    Attributes:
        shape: Dimensions of the decoder.
    """

    shape: Shape

    name: ClassVar[str] = "kv"
    unit: ClassVar[str] = "B"
    label: ClassVar[CostLabel] = CostLabel("KV bytes, mean", "KV, %", words="KV cache")
    timed: ClassVar[bool] = False

    __repr__ = screen_repr

    @classmethod
    def from_settings(cls, settings: CostSettings) -> KVBytes:
        """Return the cost for a decoder of this shape."""
        return cls(settings.shape)

    def of(
        self, counts: Counts, n_visual: int, n_other: int, candidates: Candidates | None = None
    ) -> Integers:
        """Return the stored bytes, see `Cost.of`."""
        read = counts[..., KV] + n_other
        most = self._per_row * read.shape[-1] * max(int(read.max(initial=0)), 1)
        read = within(read, most)
        return np.asarray(self._per_row * read.sum(axis=-1), read.dtype)

    def stock(self, n_visual: int, n_other: int) -> int:
        """Return the bytes that the original model stores."""
        return self._per_row * self.shape.layers * (n_visual + n_other)

    @property
    def _per_row(self) -> int:
        """Bytes of one token's key and value in one layer."""
        return 2 * self.shape.kv_bytes_per_element * self.shape.kv_width
