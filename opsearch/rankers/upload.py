"""Indices and sizes that the host has worked out, for the device, which does not wait for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

# Functions that compute import torch themselves: commands without a model name rankers too.
if TYPE_CHECKING:
    import torch
    from torch import Tensor


def upload(values: Tensor | NDArray[np.generic] | Sequence[int], device: torch.device) -> Tensor:
    """The values on `device`; a GPU copies them when its turn comes, and the host goes on.

    From ordinary memory a copy would first wait until the GPU has done all that it was given.
    """
    import torch

    tensor = torch.as_tensor(values)
    if device.type == "cuda" and tensor.device.type == "cpu":  # else torch's default device
        tensor = tensor.pin_memory()
    # Apple's may read the memory when it is long free (pytorch issue 189690).
    return tensor.to(device, non_blocking=device.type != "mps")
