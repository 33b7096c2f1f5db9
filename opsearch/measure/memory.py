"""How many bytes the states of one pass may take: as typed, or by what the device has.

That is what a GPU has in all, not what others leave free at the moment: the same command on the
same machine always makes the same chunks.
"""

from __future__ import annotations

import re
from collections import Counter
from fractions import Fraction
from math import floor
from typing import Any

import torch

from opsearch.budget import PREFIXES
from opsearch.runtime.load import AUTO

ON_CPU = 2 * 10**9
ABSENT_GPU = 80 * 10**9
"""Bytes of a GPU that is planned for on a machine without one."""
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

    States go through all GPUs that hold weights, so the one with least left counts.
    """
    if text is not None:
        return parse_memory(text)
    taken = Counter[torch.device]()
    for tensor in (*model.parameters(), *model.buffers()):
        taken[tensor.device] += tensor.nbytes
    left = [
        _memory_of(device) - weights for device, weights in taken.items() if device.type == "cuda"
    ]
    return min(left) // 2 if left else ON_CPU


def memory_ahead(text: str | None, device: str, weights: int) -> int:
    """The same before there is a model, of which the decoder's weights take so many bytes.

    Vision towers and buffers are left out, so that on a GPU it is about the same.
    """
    if text is not None:
        return parse_memory(text)
    if not on_gpu(device):
        return ON_CPU
    every = [torch.device(f"cuda:{i}") for i in range(torch.cuda.device_count())]
    places = every if device == AUTO or not every else [torch.device(device)]
    wholes = [_memory_of(place) for place in places] or [ABSENT_GPU]
    # Of larger weights some wait elsewhere, and a tenth of a GPU stays free.
    return max(min(wholes) - weights // len(wholes), min(wholes) // 10) // 2


def on_gpu(device: str) -> bool:
    """Whether a model for --device `device` is on GPUs, of this machine or of another one."""
    return device.startswith("cuda") or (device == AUTO and torch.cuda.is_available())


def _memory_of(gpu: torch.device) -> int:
    return int(torch.cuda.get_device_properties(gpu).total_memory)
