"""Memory of a pass: the given amount, or derived from the device's total memory."""

from types import SimpleNamespace

import pytest
import torch

from opsearch.formatting import parse_memory
from opsearch.measure.planning.memory import memory_ahead, memory_for
from tests.support.messages import refuses


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("8GB", 8 * 10**9), ("1.5 GB", 15 * 10**8), ("500MB", 5 * 10**8), (".5kB", 500)],
)
def test_an_amount_is_in_powers_of_1000(text, wanted):
    assert parse_memory(text) == wanted


@pytest.mark.parametrize("text", ["", "8", "8G", "8 gb", "0GB", "-1GB", "1.2.3GB", "GB", "50%"])
def test_anything_else_is_refused(text):
    with refuses(ValueError, "8GB", "500MB"):
        parse_memory(text)


class Weights:
    """A model with the given bytes of weights on each device."""

    def __init__(self, nbytes):
        self.nbytes = {torch.device(device): size for device, size in nbytes.items()}

    def parameters(self):
        return [SimpleNamespace(device=each, nbytes=n) for each, n in self.nbytes.items()]

    def buffers(self):
        return []


def test_what_was_typed_comes_before_what_the_device_has():
    assert memory_for(Weights({"cpu": 1}), 3 * 10**9) == 3 * 10**9
    assert memory_for(Weights({"cpu": 1}), None) == 2 * 10**9


@pytest.mark.parametrize(
    ("weights", "wanted"),
    [
        ({"cuda:0": 14 * 10**9}, 33 * 10**9),
        ({"cuda:0": 14 * 10**9, "cuda:1": 60 * 10**9, "meta": 10**12}, 10 * 10**9),
    ],
)
def test_a_gpu_gives_half_of_what_the_weights_leave(weights, wanted, monkeypatch):
    whole = SimpleNamespace(total_memory=80 * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: whole)
    assert memory_for(Weights(weights), None) == wanted


def test_memory_before_there_are_weights_is_what_the_engine_will_count_with(monkeypatch):
    weights = 14 * 10**9
    assert memory_ahead(3 * 10**9, "cuda", weights) == 3 * 10**9
    assert memory_ahead(None, "cpu", weights) == memory_for(Weights({"cpu": weights}), None)
    assert memory_ahead(None, "cuda", weights) == 33 * 10**9  # assumes 80 GB without a GPU
    whole = SimpleNamespace(total_memory=40 * 10**9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: whole)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for device, held in (
        ("cuda:1", {"cuda:1": weights}),
        ("auto", {"cuda:0": weights // 2, "cuda:1": weights // 2}),
    ):
        assert memory_ahead(None, device, weights) == memory_for(Weights(held), None)
    # Weights that do not fit are offloaded, and some memory is left for the states.
    for device in ("cuda:0", "auto"):
        assert memory_ahead(None, device, 10 * whole.total_memory) == 2 * 10**9
