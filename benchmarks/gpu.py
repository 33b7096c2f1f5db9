"""Device of the GPU suites, and its peak speeds."""

from __future__ import annotations

from typing import Any

import torch

from benchmarks.measuring import versions
from benchmarks.roofline import Roofline
from benchmarks.rows import BenchmarkRow
from opsearch.costs.shape import CHECKPOINTS
from opsearch.errors import ModelError
from opsearch.timing.generation import Workload
from opsearch.timing.random_models import random_workload

STOPPED: BenchmarkRow = {"stopped": "the time is up; the rest is missing"}
"""The last row of a suite that ran out of time."""


def gpu(suite: str, tiny: bool) -> str:
    """Return the CUDA device or, for a tiny suite without one, the CPU.

    Raises:
        ModelError: There is no CUDA device and the suite is not tiny.
    """
    if torch.cuda.is_available():
        return "cuda"
    if tiny:
        return "cpu"
    raise ModelError(
        f"the suite {suite} needs a CUDA device and torch finds none; run it with --tiny to try it "
        "on the CPU"
    )


def measured_speeds(device: str, tiny: bool) -> Roofline:
    """Measure the device's speeds in bfloat16."""
    return Roofline.measure(torch.bfloat16, torch.device(device), 64 if tiny else 8192)


def machine(device: str, speeds: Roofline) -> BenchmarkRow:
    """Return the first row of a suite: device, versions and speeds."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "versions": versions(),
        "matmul_flops_per_s": speeds.flops,
        "bytes_per_s": speeds.bytes,
    }


def checkpoint_workload(model: Any, name: str, batch: int, tiny: bool) -> Workload:
    """Return prompts with a checkpoint's numbers of tokens, or with a sixteenth if `tiny`."""
    checkpoint, divisor = CHECKPOINTS[name], 16 if tiny else 1
    return random_workload(
        model, batch, checkpoint.visual_tokens // divisor, checkpoint.other_tokens // divisor
    )
