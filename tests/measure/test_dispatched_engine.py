"""Measuring with models that accelerate spreads over devices, or whose weights it fetches."""

import numpy as np
import pytest
import torch

from opsearch.measure.attention import received_attention
from opsearch.measure.engine import Engine
from opsearch.measure.entry import Entry
from opsearch.measure.store import Store
from opsearch.measure.sweep import sweep
from tests import tiny
from tests.measure import families
from tests.runtime.dispatched import OneDevice, fetched_from_memory, spread
from tests.runtime.policies import LAYERS, POLICIES

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
def test_all_that_a_layer_reads_is_on_its_device(first, store):
    stock, samples = tiny.llava(LAYERS), [families.sample([3, 4])]
    engine = Engine(stock, store)
    layers = spread(first).model.language_model.layers
    for chunk in engine.plan(SOME, samples).chunks:
        ranked = engine.passes.rank(chunk, frozenset({"cls_attention"}))
        prompt, rotary = ranked.reference.prompt, stock.model.language_model.rotary_emb
        cos_sin = rotary(prompt.embeds, ranked.reference.position_ids)
        entry = Entry.of(prompt, cos_sin, ranked.rank, ranked.chunk.crowd)
        with OneDevice():
            states = sweep(layers, ranked.chunk.trie, entry, lambda layer: None)
        assert states.device == torch.device("meta")
