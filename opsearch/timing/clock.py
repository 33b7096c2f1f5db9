"""Timestamps of a device, and the spread of repeated measurements."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from opsearch.errors import ModelError


@dataclass(frozen=True)
class Clock:
    """Takes timestamps on a CPU, or in the stream of a CUDA device.

    Where torch computes with one thread, a timestamp on a CPU is the processor time of this
    process: equal to wall time on an idle machine, and not affected by other processes on a busy
    one.

    Attributes:
        device: A CPU or CUDA device; ModelError for any other.
    """

    device: torch.device

    def __post_init__(self) -> None:
        if self.device.type not in ("cpu", "cuda"):
            raise ModelError(
                f"times on device {str(self.device)!r} cannot be taken; use --device cpu or cuda"
            )

    @property
    def cuda(self) -> bool:
        """True if timestamps are events of a CUDA device."""
        return self.device.type == "cuda"

    def now(self) -> Any:
        """Return a timestamp; on CUDA, of when the device reaches it, without waiting."""
        if not self.cuda:
            one_thread = torch.get_num_threads() == 1
            return time.process_time() if one_thread else time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def seconds(self, start: Any, end: Any) -> float:
        """Return the time between two timestamps that have both passed."""
        return float(start.elapsed_time(end)) / 1e3 if self.cuda else end - start

    def wait(self) -> None:
        """Wait until the device has finished all its work."""
        if self.cuda:
            torch.cuda.synchronize(self.device)


@dataclass(frozen=True)
class Spread:
    """Median of repeated measurements between their quartiles.

    Attributes:
        low: Lower quartile.
        median: Median.
        high: Upper quartile.
    """

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least one value."""
        return cls(*(float(q) for q in np.quantile(values, (0.25, 0.5, 0.75))))

    def row(self, scale: float = 1.0) -> list[float]:
        """Return [low, median, high] times `scale`, to five digits."""
        return [float(f"{scale * each:.5g}") for each in (self.low, self.median, self.high)]
