"""Measured times of one decoder layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opsearch.errors import OpsearchError
from opsearch.formatting import screen_repr

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
        place: Device, dtype, versions and model for which the table is valid.
        image_flops: Increasing FLOPs of vision tower and projector for images of some samples.
        images: Time of all that comes before the decoder for them; empty: it is not part of times.
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
    image_flops: tuple[int, ...] = ()
    images: tuple[int, ...] = ()

    __repr__ = screen_repr

    def __post_init__(self) -> None:
        sizes = {len(self.rows), len(self.same), len(self.mlp)}
        pictures = {len(self.image_flops), len(self.images)}
        square = {len(self.coarse), len(self.split), *map(len, self.split)}
        grids = self.rows, self.coarse, self.image_flops
        rising = all(sorted(set(grid)) == list(grid) for grid in grids)
        if max(map(len, (sizes, square, pictures))) > 1 or not rising:
            raise OpsearchError(
                f"a latency table of {len(self.rows)} and {len(self.coarse)} numbers of rows has "
                "parts of other lengths, or the numbers do not increase; fit it again"
            )

    def covers(self, fewest: int, most: int) -> bool:
        """Return whether layers of `fewest` to `most` rows are within the measured range."""
        return self.rows[0] <= fewest and most <= self.rows[-1]

    def of_images(self, flops: int) -> int:
        """Return the time of a sample's images, proportional to their FLOPs outside the grid."""
        grid = np.array((0, *self.image_flops), float)
        times = np.maximum.accumulate((0, *self.images))
        if flops > grid[-1]:
            return round(float(times[-1]) * flops / float(grid[-1]))
        return round(float(np.interp(flops, grid, times)))

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


def _interpolated(rows: Ints, grid: tuple[int, ...], measured: tuple[int, ...]) -> Ints:
    # Latency increases with the rows; any measured decrease is noise.
    return np.rint(np.interp(rows, grid, np.maximum.accumulate(measured))).astype(np.int64)
