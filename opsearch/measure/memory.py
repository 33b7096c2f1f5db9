"""How many bytes the states of one pass may take: as typed, or by what the device has."""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction
from math import floor
from typing import Any

import torch

from opsearch.budget import PREFIXES

ON_CPU = 2 * 10**9
_AMOUNT = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([kMGT])B")


def parse_memory(text: str) -> int:
    """Bytes of an amount such as 8GB (powers of 1000); ValueError for anything that is none."""
    match = _AMOUNT.fullmatch(text.strip())
    amount = floor(Fraction(match[1]) * PREFIXES[match[2]]) if match else 0
    if not amount:
        raise ValueError("is not an amount of memory such as 8GB or 500MB")
    return amount


def memory_for(model: Any, text: str | None) -> int:
    """Bytes for the states: `text`, or 2 GB on a CPU, or half of what the weights leave of a GPU.

    That is what the GPU has in all, not what others leave free at the moment: the same command on
    the same machine always makes the same chunks. States go through all GPUs that hold weights, so
    the one with least left counts.
    """
    if text is not None:
        return parse_memory(text)
    from torch.cuda import get_device_properties

    taken = Counter[torch.device]()
    for tensor in (*model.parameters(), *model.buffers()):
        taken[tensor.device] += tensor.nbytes
    left = [
        int(get_device_properties(device).total_memory) - weights
        for device, weights in taken.items()
        if device.type == "cuda"
    ]
    return min(left) // 2 if left else ON_CPU
