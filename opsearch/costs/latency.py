"""Latency of a prefill at batch 1, from a table measured on one device.

It is the time of the images, which no policy changes, and that of the decoder's layers. The time of
a pruned layer is the sum of two independent parts: attention, a function of its query and key rows,
and the MLP, a function of its rows. `opsearch.timing.latency_table` measures images and layers on
a small grid. Here they are interpolated and summed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from opsearch.costs.base import CostLabel, CostSettings
from opsearch.costs.latency_table import Ints, LatencyTable
from opsearch.costs.shape import Shape
from opsearch.errors import OpsearchError
from opsearch.formatting import screen_repr
from opsearch.policy.counts import KV, MLP, Candidates, Counts, Q, live


@dataclass(frozen=True)
class Latency:
    """Latency of a prefill at batch 1 on the device of its table, in nanoseconds.

    Attributes:
        shape: Dimensions of the decoder.
        table: Measured times.

    Raises:
        OpsearchError: There is no table.
    """

    shape: Shape
    table: LatencyTable | None = None

    __repr__ = screen_repr

    def __post_init__(self) -> None:
        if self.table is None:
            raise OpsearchError(
                "a budget of time needs a table of this model's layers on this device, which "
                "`opsearch run` fits for a --model; without one limit FLOPs, e.g. --budget 30%"
            )

    name: ClassVar[str] = "latency"
    unit: ClassVar[str] = "ns"
    label: ClassVar[CostLabel] = CostLabel("prefill ms", "prefill, %", 1e6, "prefill time")
    timed: ClassVar[bool] = True

    @classmethod
    def from_settings(cls, settings: CostSettings) -> Latency:
        """Return the latency from the table of these settings; OpsearchError without one."""
        return cls(settings.shape, settings.table)

    def of(
        self, counts: Counts, n_visual: int, n_other: int, candidates: Candidates | None = None
    ) -> Ints:
        """Return the latencies of the decoder, see `Cost.of`; `of_images` is not part of them.

        Dead operations are not executed, except by the identity, which runs the stock model.
        """
        identity = (counts == n_visual).all(axis=(-2, -1))
        executed = np.where(identity[..., None, None], counts, live(counts, candidates))
        return self._sum(executed + n_other)

    def stock(self, n_visual: int, n_other: int) -> int:
        """Return the latency of the original decoder; `of_images` is not part of it."""
        everything = np.full((self.shape.layers, 3), n_visual + n_other, np.int64)
        return int(self._sum(everything))

    @property
    def of_images(self) -> Callable[[int], int] | None:
        """Time that the images of a sample add, by their FLOPs; None if the table has no times."""
        return self.table.of_images if self.table and self.table.images else None

    def _sum(self, rows: Ints) -> Ints:
        """Return the latency of layers with these numbers of rows, int64[..., L, 3] -> int64[...].

        The host launches layers ahead of a busy device; an idle device waits for the host.
        """
        assert self.table is not None  # __post_init__ raises otherwise
        values = np.flatnonzero(np.bincount(rows.ravel()))
        if not self.table.covers(int(values[0]), int(values[-1])):
            raise OpsearchError(
                f"a layer of {values[0]} to {values[-1]} rows is outside the latency table, which "
                f"covers {self.table.rows[0]} to {self.table.rows[-1]}; fit one for these samples"
            )
        index_of = np.zeros(values[-1] + 1, np.int64)
        index_of[values] = np.arange(len(values))
        index = index_of[rows]
        attention, launch = self.table.attention(values)
        mlp = self.table.more_for_mlp(values)
        host = np.zeros(rows.shape[:-2], np.int64)
        device = np.zeros_like(host)
        for layer in range(rows.shape[-2]):
            q, kv, mlp_rows = (index[..., layer, module] for module in (Q, KV, MLP))
            host = host + launch[q, kv]
            device = np.maximum(device, host) + attention[q, kv] + mlp[mlp_rows]
        return np.asarray(device + self.table.once)
