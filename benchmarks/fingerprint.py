"""Speed of a model's fingerprint, which digests all weights, and what that means for 14 GB."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from torch import nn

from benchmarks.rows import BenchmarkRow
from opsearch.models.fingerprint import tensor_digests

_WEIGHTS, _BYTES = 16, 2**27
_OF_7B = 14e9  # bytes in half precision


def fingerprint_speed(tiny: bool) -> Iterator[BenchmarkRow]:
    """Yield one row; `tiny` digests a thousandth as much."""
    elements = _BYTES // 2 // (1000 if tiny else 1)
    weights = [torch.randn(elements).bfloat16() for _ in range(_WEIGHTS)]
    model = nn.ParameterList(nn.Parameter(each, requires_grad=False) for each in weights)
    start = time.perf_counter()
    tensor_digests(model)
    speed = 2 * elements * _WEIGHTS / (time.perf_counter() - start)
    yield {"GB": 2e-9 * elements * _WEIGHTS, "GB/s": speed / 1e9, "s for 14 GB": _OF_7B / speed}
