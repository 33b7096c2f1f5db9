"""Moments on the time line of a device, so that timing a pass makes nothing wait inside it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from opsearch.errors import ModelError


@dataclass(frozen=True)
class Clock:
    """Takes moments on a CPU, or in the queue of a CUDA device; ModelError for any other.

    Where torch computes with a single thread a moment is the processor time of this process, which
    is wall time on an idle machine and leaves out the turns of other processes on a busy one.
    """

    device: torch.device

    def __post_init__(self) -> None:
        if self.device.type not in ("cpu", "cuda"):
            raise ModelError(
                f"times on device {str(self.device)!r} cannot be taken; use --device cpu or cuda"
            )

    @property
    def cuda(self) -> bool:
        """Whether moments are events of a CUDA device."""
        return self.device.type == "cuda"

    def now(self) -> Any:
        """This moment: on CUDA, when the device gets here; the host does not wait for it."""
        if not self.cuda:
            one_thread = torch.get_num_threads() == 1
            return time.process_time() if one_thread else time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self.device))
        return event

    def seconds(self, start: Any, end: Any) -> float:
        """Time between two moments that have both passed."""
        return float(start.elapsed_time(end)) / 1e3 if self.cuda else end - start

    def wait(self) -> None:
        """Let the device finish everything it was given."""
        if self.cuda:
            torch.cuda.synchronize(self.device)
