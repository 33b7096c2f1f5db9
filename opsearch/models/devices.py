"""Devices of modules and weights, also of models that accelerate spreads or offloads.

If a model is spread over devices, or offloaded to the CPU or to disk, accelerate's hooks wrap the
forward of each module: they load its weights and move its inputs to the execution device.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def device_of(module: nn.Module) -> torch.device:
    """Return the device that a module with its own weights runs on."""
    for hook in _hooks(module):
        if (device := getattr(hook, "execution_device", None)) is not None:
            return torch.device(device)
    return next(module.parameters(recurse=False)).device


def device_of_inputs(model: Any) -> torch.device:
    """Return the device of the input embeddings, where input_ids must be."""
    return device_of(model.get_input_embeddings())


def is_hooked(module: nn.Module) -> bool:
    """Return whether accelerate's hooks wrap the module's forward."""
    return "_hf_hook" in vars(module)


def forward_name(module: nn.Module) -> str:
    """Return the name of the attribute that holds the forward inside accelerate's hooks, if any."""
    return "_old_forward" if is_hooked(module) else "forward"


def weight(model: nn.Module, name: str) -> Tensor:
    """Return the values of a parameter, even if it is offloaded or quantized."""
    values: Any = stored_tensor(model, name)
    if hasattr(values, "__tensor_flatten__"):  # a tensor subclass of a quantization library
        values = values.dequantize()
    tensor: Tensor = values
    return tensor


def stored_tensor(model: nn.Module, name: str) -> Tensor:
    """Return a parameter or buffer as it is stored, even if it is offloaded."""
    path, _, own = name.rpartition(".")
    module = model.get_submodule(path)
    tensor: Tensor = getattr(module, own)
    if tensor.is_meta:
        for hook in _hooks(module):
            if (offloaded := getattr(hook, "weights_map", None)) is not None:
                value: Tensor = offloaded[own]
                return value.to(tensor.dtype)  # the file may have another dtype
    return tensor


def _hooks(module: nn.Module) -> list[Any]:
    hook = vars(module).get("_hf_hook")
    return list(getattr(hook, "hooks", [hook])) if hook else []
