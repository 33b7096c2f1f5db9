"""What accelerate makes of a model: weights that are fetched, layers on a device of their own."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests import tiny
from tests.runtime.policies import LAYERS

accelerate = pytest.importorskip("accelerate", reason="make test-lmms has accelerate")


def fetched_from_memory(model, folder):
    return accelerate.cpu_offload(model, execution_device="cpu")


def fetched_from_disk(model, folder):
    return accelerate.disk_offload(model, str(folder), execution_device="cpu")


def some_fetched_from_disk(model, folder):
    device_map = places(model, lambda layer: "disk" if layer % 2 else "cpu")
    return accelerate.dispatch_model(model, device_map, offload_dir=str(folder))


def places(model, where):
    """A device map: `where` the decoder's layers are, 0 for all before, LAYERS for all behind."""
    layers, found = "model.language_model.layers.", {}
    for name, _ in model.named_parameters():
        if name.startswith(layers):
            number = int(name.removeprefix(layers).split(".")[0])
            found[f"{layers}{number}"] = where(number)
        else:
            behind = name in ("model.language_model.norm.weight", "lm_head.weight")
            found[name.removesuffix(".weight")] = where(LAYERS if behind else 0)
    return found


class OneDevice(TorchDispatchMode):
    """Refuses to compute with tensors of two devices; numbers may come from the CPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor) and t.ndim]
        assert len({t.device for t in given}) < 2, func
        return func(*args, **(kwargs or {}))


def spread(first):
    """A LLaVA whose layers from `first` on are on another device, on which nothing has values."""
    model = tiny.llava(LAYERS)
    device_map = places(model, lambda layer: "cpu" if layer < max(first, 1) else "meta")
    device_map["model.language_model.layers.0"] = "cpu" if first else "meta"
    return accelerate.dispatch_model(model, device_map, main_device="cpu")
