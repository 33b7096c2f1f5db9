"""Device of the GPU suites, and its peak speeds."""

from __future__ import annotations

from importlib.metadata import version

import torch

from benchmarks.roofline import Roofline
from benchmarks.rows import BenchmarkRow
from opsearch.errors import ModelError

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
        "versions": {name: version(name) for name in ("torch", "transformers", "numpy")},
        "matmul_flops_per_s": speeds.flops,
        "bytes_per_s": speeds.bytes,
    }
