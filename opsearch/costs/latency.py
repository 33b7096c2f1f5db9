"""Nanoseconds of a decoder's prefill at batch 1, from a table measured on one device.

A pruned layer is two parts that do not know each other's rows: attention, by its query and its key
rows, and the MLP, by its rows. `bench/fit.py` times both on the runtime's own layers at a small
grid of row numbers; here the layers of a policy are added up, interpolated between those points.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opsearch.costs.shape import Shape
from opsearch.errors import OpsearchError
from opsearch.policy import KV, MLP, Counts, Pools, Q, live

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class LatencyTable:
    """What was measured: nanoseconds, at numbers of rows that count all tokens, text included.

    rows, coarse: rising grids from the text alone to the longest prompt.
    same: a layer whose queries and keys are the same rows, the MLP on the fewest rows, at `rows`.
    split: the same for queries (first index) and keys of different rows, at `coarse` x `coarse`.
    mlp: a layer with attention on the fewest rows, at `rows`; base: a layer of the fewest rows.
    once: what a prefill takes besides its layers.
    launch: before the device can begin with the next layer, the host needs so long for this one;
        launch_split: where queries and keys differ. 0 on a CPU.
    place: device, numeric type, versions and decoder that the table holds for.
    """

    rows: tuple[int, ...]
    coarse: tuple[int, ...]
    same: tuple[int, ...]
    split: tuple[tuple[int, ...], ...]
    mlp: tuple[int, ...]
    base: int
    once: int
    launch: int
    launch_split: int
    place: str

    def __post_init__(self) -> None:
        sizes = {len(self.rows), len(self.same), len(self.mlp)}
        square = {len(self.coarse), len(self.split), *map(len, self.split)}
        rising = all(sorted(set(grid)) == list(grid) for grid in (self.rows, self.coarse))
        if len(sizes) > 1 or len(square) > 1 or not rising:
            raise OpsearchError(
                f"a latency table of {len(self.rows)} and {len(self.coarse)} row numbers has parts "
                "of another size, or its row numbers do not rise; fit it again"
            )

    def covers(self, fewest: int, most: int) -> bool:
        """Whether layers of `fewest` to `most` rows lie between measured ones."""
        return self.rows[0] <= fewest and most <= self.rows[-1]

    def attention(self, rows: Ints) -> tuple[Ints, Ints]:
        """Of every pair of the given query and key rows: device and host, int64[R, R] each."""
        weights = np.array(
            [np.interp(rows, self.coarse, unit) for unit in np.eye(len(self.coarse))]
        )
        device = np.rint(weights.T @ np.array(self.split, float) @ weights).astype(np.int64)
        host = np.full_like(device, self.launch_split)
        diagonal = np.arange(len(rows))
        device[diagonal, diagonal] = _between(rows, self.rows, self.same)
        host[diagonal, diagonal] = self.launch
        return device, host

    def more_for_mlp(self, rows: Ints) -> Ints:
        """What a layer takes more than with the MLP on the fewest rows, int64[R]."""
        return _between(rows, self.rows, self.mlp) - self.base


@dataclass(frozen=True)
class Latency:
    """Time of a decoder's prefill at batch 1 on the device that its table was fitted on, in ns.

    Raises OpsearchError without a table.
    """

    shape: Shape
    table: LatencyTable | None = None

    def __post_init__(self) -> None:
        if self.table is None:
            raise OpsearchError(
                "a budget of time needs a table of this model's layers on this device, which "
                "`opsearch run` fits for a --model; without one limit FLOPs, e.g. --budget 30%"
            )

    @property
    def name(self) -> str:
        """Key of this cost."""
        return "latency"

    @property
    def unit(self) -> str:
        """Unit of the returned integers."""
        return "ns"

    def of(self, counts: Counts, n_visual: int, n_other: int, pools: Pools | None = None) -> Ints:
        """Time under resolved counts int64[..., L, 3], int64[...].

        pools: of rankers inside the decoder, whose own time is not included (Policy.pools). Dead
        operations are not run, except by the identity, which is the stock model.
        """
        identity = (counts == n_visual).all(axis=(-2, -1))
        performed = np.where(identity[..., None, None], counts, live(counts, pools))
        return self._sum(performed + n_other)

    def stock(self, n_visual: int, n_other: int) -> int:
        """Time of the original model on the same sample."""
        everything = np.full((self.shape.layers, 3), n_visual + n_other, np.int64)
        return int(self._sum(everything))

    def _sum(self, rows: Ints) -> Ints:
        """Time of layers that work on these rows, int64[..., L, 3] -> int64[...].

        The host runs ahead of a busy device; a device that is done first waits for the host.
        """
        assert self.table is not None  # __post_init__ raises otherwise
        values = np.flatnonzero(np.bincount(rows.ravel()))
        if not self.table.covers(int(values[0]), int(values[-1])):
            raise OpsearchError(
                f"a layer of {values[0]} to {values[-1]} rows is outside the latency table, which "
                f"covers {self.table.rows[0]} to {self.table.rows[-1]}; fit one for these samples"
            )
        place = np.zeros(values[-1] + 1, np.int64)
        place[values] = np.arange(len(values))
        at = place[rows]
        attention, launch = self.table.attention(values)
        mlp = self.table.more_for_mlp(values)
        host = np.zeros(rows.shape[:-2], np.int64)
        device = np.zeros_like(host)
        for layer in range(rows.shape[-2]):
            q, kv, rest = at[..., layer, Q], at[..., layer, KV], at[..., layer, MLP]
            host = host + launch[q, kv]
            device = np.maximum(device, host) + attention[q, kv] + mlp[rest]
        return np.asarray(device + self.table.once)


def _between(rows: Ints, grid: tuple[int, ...], measured: tuple[int, ...]) -> Ints:
    # More rows never take less time: where they seem to, it is noise of the measurement.
    return np.rint(np.interp(rows, grid, np.maximum.accumulate(measured))).astype(np.int64)
