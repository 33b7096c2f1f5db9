"""Bytes that the states of one pass may take, as given by the user or by the device.

The limit depends on a GPU's total memory, not on what is free at the moment, so that the same
command on the same machine always makes the same chunks.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from opsearch.costs.exact import weighted_sum
from opsearch.costs.shape import Shape
from opsearch.measure.layout import Ints, Size
from opsearch.models.placement import AUTO

# Functions that ask a device import torch themselves: a dry run for a CPU does without it.
if TYPE_CHECKING:
    import torch

ON_CPU = 2 * 10**9
ABSENT_GPU = 80 * 10**9
"""Bytes assumed for a GPU when planning on a machine without one."""


def memory_for(model: Any, given: int | None) -> int:
    """Return the bytes for states: `given`, else by the model's devices.

    On a CPU 2 GB, on a GPU half of what the weights leave. States pass through every GPU that holds
    weights, so the one with the least memory left counts.
    """
    import torch

    if given is not None:
        return given
    weight_bytes = Counter[torch.device]()
    for tensor in (*model.parameters(), *model.buffers()):
        weight_bytes[tensor.device] += tensor.nbytes
    left = [
        _memory_of(device) - weights
        for device, weights in weight_bytes.items()
        if device.type == "cuda"
    ]
    return min(left) // 2 if left else ON_CPU


def memory_ahead(given: int | None, device: str, weights: int) -> int:
    """Return about the same as `memory_for` before the model is loaded.

    Vision towers and buffers are left out.

    Args:
        given: The amount given by the user, if any.
        device: Value of --device.
        weights: Bytes of the decoder's weights.
    """
    if given is not None:
        return given
    if not on_gpu(device):
        return ON_CPU
    import torch

    all_gpus = [torch.device(f"cuda:{i}") for i in range(torch.cuda.device_count())]
    gpus = all_gpus if device == AUTO or not all_gpus else [torch.device(device)]
    totals = [_memory_of(gpu) for gpu in gpus] or [ABSENT_GPU]
    # Weights that do not fit are offloaded, which leaves a tenth of each GPU free.
    return max(min(totals) - weights // len(totals), min(totals) // 10) // 2


def on_gpu(device: str) -> bool:
    """Return whether a model for --device `device` runs on GPUs, here or on another machine."""
    if device != AUTO:
        return device.startswith("cuda")
    import torch

    return torch.cuda.is_available()


def _memory_of(gpu: torch.device) -> int:
    import torch

    return int(torch.cuda.get_device_properties(gpu).total_memory)


@dataclass(frozen=True)
class MemoryBudget:
    """Limit on the states of a pass.

    Attributes:
        shape: Shape of the decoder.
        itemsize: Bytes of one element.
        memory: Bytes that all states together may take.
    """

    shape: Shape
    itemsize: int = 4
    memory: float = inf

    def holds(self, elements: Ints, size: Size) -> NDArray[np.bool_]:
        """Return for each of several passes whether it fits, bool[...].

        Args:
            elements: Elements held per sample and per image, int64[L + 1, ..., 2].
            size: Number of samples and images.
        """
        both = ((size.samples, elements[..., 0]), (size.images, elements[..., 1]))
        widest = weighted_sum(both, elements.shape[:-1]).max(axis=0)
        return np.asarray(widest <= self.memory / self.itemsize, bool)
