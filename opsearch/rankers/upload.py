"""Asynchronous copies of indices and sizes from the host to the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def upload(values: Tensor | NDArray[np.generic] | Sequence[int], device: torch.device) -> Tensor:
    """Copy values to `device` without synchronizing with a GPU.

    A copy from pageable memory would first wait for all work queued on the GPU.
    """
    import torch

    tensor = torch.as_tensor(values)
    if device.type == "cuda" and tensor.device.type == "cpu":  # else torch's default device
        tensor = tensor.pin_memory()
    # MPS may read the memory after it is freed (pytorch issue 189690).
    return tensor.to(device, non_blocking=device.type != "mps")
