"""Models under accelerate: offloaded weights, or some layers on a second device."""

import pytest

from tests.models.policies import LAYERS
from tests.support import tiny
from tests.support.pretend import PRETEND

accelerate = pytest.importorskip("accelerate", reason="make test-lmms has accelerate")


def fetched_from_memory(model, folder):
    return accelerate.cpu_offload(model, execution_device="cpu")


def fetched_from_disk(model, folder):
    return accelerate.disk_offload(model, str(folder), execution_device="cpu")


def some_fetched_from_disk(model, folder):
    device_map = device_map_of(model, lambda layer: "disk" if layer % 2 else "cpu")
    return accelerate.dispatch_model(model, device_map, offload_dir=str(folder))


def device_map_of(model, where):
    """Return a device map: where(layer) for each part, 0 before the decoder, LAYERS after it."""
    layers, found = "model.language_model.layers.", {}
    for name, _ in model.named_parameters():
        if name.startswith(layers):
            number = int(name.removeprefix(layers).split(".")[0])
            found[f"{layers}{number}"] = where(number)
        else:
            behind = name in ("model.language_model.norm.weight", "lm_head.weight")
            found[name.removesuffix(".weight")] = where(LAYERS if behind else 0)
    return found


def spread(first):
    """Return a LLaVA with the layers from `first` on, and all after them, on a second device."""
    model = tiny.llava(LAYERS)
    device_map = device_map_of(model, lambda layer: "cpu" if layer < max(first, 1) else PRETEND)
    device_map["model.language_model.layers.0"] = "cpu" if first else PRETEND
    return accelerate.dispatch_model(model, device_map, main_device="cpu")
