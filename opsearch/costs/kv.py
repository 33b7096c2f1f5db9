"""Bytes of the KV cache after the prefill of one sample."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opsearch.costs.shape import Shape
from opsearch.policy import KV, Counts, Pools


@dataclass(frozen=True)
class KVBytes:
    """Keys and values that the layers store, visual and other tokens, in bytes.

    Only the kv counts matter: they are live by definition, and tokens that a layer reads but does
    not update are stored all the same.
    """

    shape: Shape

    @property
    def name(self) -> str:
        """Key of this cost."""
        return "kv"

    @property
    def unit(self) -> str:
        """Unit of the returned integers."""
        return "B"

    def of(
        self, counts: Counts, n_visual: int, n_other: int, pools: Pools | None = None
    ) -> NDArray[np.int64]:
        """Bytes stored under resolved counts int64[..., L, 3], int64[...]."""
        rows = (counts[..., KV] + n_other).sum(axis=-1)
        return np.asarray(self._per_row * rows, np.int64)

    def stock(self, n_visual: int, n_other: int) -> int:
        """Bytes that the original model stores."""
        return self._per_row * self.shape.layers * (n_visual + n_other)

    @property
    def _per_row(self) -> int:
        """Bytes of one token's key and value in one layer."""
        return 2 * self.shape.kv_bytes_per_element * self.shape.kv_width
