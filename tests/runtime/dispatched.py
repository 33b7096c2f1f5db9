"""What accelerate makes of a model: weights that are fetched, layers on a device of their own."""

import pytest

from tests import tiny
from tests.pretend import PRETEND
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


def spread(first):
    """A LLaVA whose layers from `first` on, and all behind them, are on a device of their own."""
    model = tiny.llava(LAYERS)
    device_map = places(model, lambda layer: "cpu" if layer < max(first, 1) else PRETEND)
    device_map["model.language_model.layers.0"] = "cpu" if first else PRETEND
    return accelerate.dispatch_model(model, device_map, main_device="cpu")
