"""Measurements with models that accelerate spreads over devices or offloads."""

import numpy as np
import pytest
import torch

from opsearch.measure.engine import Engine
from opsearch.measure.received_attention import received_attention
from opsearch.measure.storage.store import Store
from tests.measure import families
from tests.models.dispatched import fetched_from_memory, spread
from tests.models.policies import LAYERS, POLICIES
from tests.support import tiny

pytestmark = [
    pytest.mark.usefixtures("no_grad"),
    pytest.mark.filterwarnings("ignore:The following device_map keys"),  # those of parameters
]

SOME = [POLICIES[label] for label in ("dop, kv stays", "random counts 0", "two at once")]


def measured(model, samples, path):
    with Store(path, {}) as store:
        divergences = Engine(model, store, positions=2).measure(SOME, samples)
        return [divergences, *received_attention(model, store, samples)]


def test_fetched_weights_measure_the_same(tmp_path):
    model = tiny.llava(LAYERS)
    samples = [families.sample(runs) for runs in families.LAYOUTS[:2]]
    wanted = measured(model, samples, tmp_path / "before.db")
    model = fetched_from_memory(model, tmp_path)
    for one, other in zip(measured(model, samples, tmp_path / "after.db"), wanted, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("first", [0, 3])
def test_layers_on_a_device_of_their_own(first, tmp_path):
    samples = [families.sample(runs) for runs in families.LAYOUTS[:2]]
    with torch.inference_mode(False), torch.no_grad():
        wanted = measured(tiny.llava(LAYERS), samples, tmp_path / "one.db")
        found = measured(spread(first), samples, tmp_path / "several.db")
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=5e-6 * max(1, wanted[0].max()))
