"""Where modules compute: on the device of their weights, or where accelerate brings these.

A model that is spread over devices, or whose weights wait on the CPU or on disk, has accelerate's
hooks: they surround each module's forward, fetch its weights and move its inputs there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def device_of(module: nn.Module) -> torch.device:
    """The device that a module with weights of its own computes on."""
    for hook in _hooks(module):
        if (device := getattr(hook, "execution_device", None)) is not None:
            return torch.device(device)
    return next(module.parameters(recurse=False)).device


def device_of_inputs(model: Any) -> torch.device:
    """The device that takes a prompt's tokens."""
    return device_of(model.get_input_embeddings())


def is_hooked(module: nn.Module) -> bool:
    """Whether accelerate's hooks surround the module's forward."""
    return "_hf_hook" in vars(module)


def forward_name(module: nn.Module) -> str:
    """The attribute with the forward that computes, inside of accelerate's hooks if any."""
    return "_old_forward" if is_hooked(module) else "forward"


def weight(model: nn.Module, name: str) -> Tensor:
    """A parameter with its values, also where these wait on the CPU or on disk, or are packed."""
    parameter: Any = model.get_parameter(name)
    if hasattr(parameter, "__tensor_flatten__"):  # a quantiser's
        parameter = parameter.dequantize()
    if parameter.is_meta:
        path, _, own = name.rpartition(".")
        for hook in _hooks(model.get_submodule(path)):
            if (waiting := getattr(hook, "weights_map", None)) is not None:
                value: Tensor = waiting[own]
                return value.to(parameter.dtype)  # that of the file may be another one
    values: Tensor = parameter
    return values


def _hooks(module: nn.Module) -> list[Any]:
    hook = vars(module).get("_hf_hook")
    return list(getattr(hook, "hooks", [hook])) if hook else []
