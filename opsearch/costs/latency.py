"""Latency of a decoder's prefill at batch 1, from a table measured on one device.

The time of a pruned layer is the sum of two independent parts: attention, a function of its query
and key rows, and the MLP, a function of its rows. `opsearch.timing.latency_table` measures both on
pruned layers for a small grid of row counts. Here they are interpolated and summed over the layers.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from opsearch.costs.base import CostLabel, CostSettings
from opsearch.costs.shape import Shape
from opsearch.errors import OpsearchError, RunFolderError
from opsearch.files import write_text
from opsearch.policy.counts import KV, MLP, Candidates, Counts, Q, live

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class LatencyTable:
    """Measured times in nanoseconds, by numbers of rows (visual and other tokens).

    Attributes:
        rows: Increasing grid from the text alone to the longest prompt.
        coarse: Coarser grid of the same range.
        same: Layer whose queries and keys are the same rows and whose MLP runs on the fewest rows,
            at `rows`.
        split: Layer whose queries (first index) and keys differ, at `coarse` x `coarse`.
        mlp: Layer whose attention runs on the fewest rows, at `rows` of the MLP.
        base: Layer with the fewest rows.
        once: Time of a prefill outside its layers.
        launch: Host time to launch a layer, 0 on a CPU.
        launch_split: Host time to launch a layer whose queries and keys differ, 0 on a CPU.
        place: Device, dtype, versions and decoder for which the table is valid.
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
        """Return whether layers of `fewest` to `most` rows are within the measured range."""
        return self.rows[0] <= fewest and most <= self.rows[-1]

    def attention(self, rows: Ints) -> tuple[Ints, Ints]:
        """Return device and host time for all pairs of query and key rows, int64[R, R] each."""
        weights = np.array(
            [np.interp(rows, self.coarse, unit) for unit in np.eye(len(self.coarse))]
        )
        device = np.rint(weights.T @ np.array(self.split, float) @ weights).astype(np.int64)
        host = np.full_like(device, self.launch_split)
        diagonal = np.arange(len(rows))
        device[diagonal, diagonal] = _interpolated(rows, self.rows, self.same)
        host[diagonal, diagonal] = self.launch
        return device, host

    def more_for_mlp(self, rows: Ints) -> Ints:
        """Return the time of an MLP beyond that on the fewest rows, int64[R]."""
        return _interpolated(rows, self.rows, self.mlp) - self.base


@dataclass(frozen=True)
class Latency:
    """Latency of a decoder's prefill at batch 1 on the device of its table, in nanoseconds.

    Attributes:
        shape: Dimensions of the decoder.
        table: Measured times.

    Raises:
        OpsearchError: There is no table.
    """

    shape: Shape
    table: LatencyTable | None = None

    def __post_init__(self) -> None:
        if self.table is None:
            raise OpsearchError(
                "a budget of time needs a table of this model's layers on this device, which "
                "`opsearch run` fits for a --model; without one limit FLOPs, e.g. --budget 30%"
            )

    name: ClassVar[str] = "latency"
    unit: ClassVar[str] = "ns"
    label: ClassVar[CostLabel] = CostLabel("prefill ms", "prefill, %", 1e6)
    timed: ClassVar[bool] = True

    @classmethod
    def from_settings(cls, settings: CostSettings) -> Latency:
        """Return the cost for a decoder of this shape."""
        return cls(settings.shape, settings.table)

    def of(
        self, counts: Counts, n_visual: int, n_other: int, pools: Candidates | None = None
    ) -> Ints:
        """Return the latencies, see `Cost.of`.

        Dead operations are not executed, except by the identity, which runs the stock model.
        """
        identity = (counts == n_visual).all(axis=(-2, -1))
        executed = np.where(identity[..., None, None], counts, live(counts, pools))
        return self._sum(executed + n_other)

    def stock(self, n_visual: int, n_other: int) -> int:
        """Return the latency of the original model on a sample."""
        everything = np.full((self.shape.layers, 3), n_visual + n_other, np.int64)
        return int(self._sum(everything))

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


def _interpolated(rows: Ints, grid: tuple[int, ...], measured: tuple[int, ...]) -> Ints:
    # Latency increases with the rows; any measured decrease is noise.
    return np.rint(np.interp(rows, grid, np.maximum.accumulate(measured))).astype(np.int64)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
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


def write_table(table: LatencyTable, path: Path) -> Path:
    """Write the table."""
    return write_text(path, json.dumps(dataclasses.asdict(table), indent=2) + "\n")


def read_table(path: Path) -> LatencyTable:
    """Read a table; RunFolderError when the file is damaged or of another version."""
    try:
        return LatencyTable(**_File.model_validate_json(path.read_bytes()).model_dump())
    except (OSError, ValidationError, OpsearchError) as error:
        reason = " ".join(str(error).split())
        raise RunFolderError(
            f"{path} cannot be read as a latency table ({reason}); remove it and run again"
        ) from error
