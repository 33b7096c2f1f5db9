"""Models that accelerate spreads over devices or offloads to the CPU or disk."""

import pytest
import torch
from transformers import AutoModelForImageTextToText

from opsearch.data.demo import MODEL_DIR
from opsearch.errors import ModelError
from opsearch.models.devices import device_of_inputs
from opsearch.models.encoding import batch_inputs
from opsearch.models.families import family_for
from opsearch.models.fingerprint import fingerprint
from opsearch.models.loading import load_weights
from opsearch.models.pruned.cuda_graphs import Graphs
from opsearch.policy import builders
from tests.measure.demo import samples
from tests.models.dispatched import (
    fetched_from_disk,
    fetched_from_memory,
    some_fetched_from_disk,
    spread,
)
from tests.models.judge import TOLERANCE
from tests.models.policies import CLS, LAYERS, POLICIES, with_rankers_of
from tests.support import tiny
from tests.support.families import FAMILIES, QUICK
from tests.support.families.prompt import prompts
from tests.support.messages import refuses

pytestmark = [
    pytest.mark.usefixtures("no_grad"),
    pytest.mark.filterwarnings("ignore:The following device_map keys"),  # those of parameters
]

SOME = ("dop, kv leaves", "dop, kv stays", "random counts 0", "two at once")


def answers(model, policy, inputs):
    with policy.apply(model):
        said = model.generate(**inputs, max_new_tokens=3, do_sample=False, num_beams=2)
        return model(**inputs).logits, said


def hooks_and_forwards(model):
    names = ("_hf_hook", "_old_forward", "forward")
    return [vars(module).get(name) for module in model.modules() for name in names]


# In other families stock models fail when the newline token's weights are offloaded too.
@pytest.mark.parametrize(
    ("offload", "name"),
    [
        (fetched_from_memory, "llava"),
        (fetched_from_disk, "llava"),
        *((some_fetched_from_disk, name) for name in QUICK),
    ],
)
def test_fetched_weights_say_the_same(offload, name, tmp_path):
    model, inputs = FAMILIES[name].model(LAYERS), prompts(FAMILIES[name], [[3, 4], [1, 0, 6]])
    known, policies = fingerprint(model), with_rankers_of(family_for(name))
    wanted = {label: answers(model, policies[label], inputs) for label in SOME}
    model = offload(model, tmp_path)
    assert model.model.language_model.layers[1].mlp.up_proj.weight.is_meta
    assert device_of_inputs(model) == torch.device("cpu")
    assert fingerprint(model) == known
    before = hooks_and_forwards(model)
    for label in SOME:
        logits, said = answers(model, policies[label], inputs)
        assert torch.equal(logits, wanted[label][0]), label
        assert torch.equal(said, wanted[label][1]), label
    assert hooks_and_forwards(model) == before


@pytest.mark.parametrize("first", [0, 3])
def test_layers_on_a_device_of_their_own(first):
    stock, model, inputs = tiny.llava(LAYERS), spread(first), tiny.prompts([[3, 4], [1, 6]])
    with torch.inference_mode(False), torch.no_grad():
        for label in (*SOME, "sparsevlm", "rows without any key"):
            wanted, said = answers(stock, POLICIES[label], inputs)
            found, repeated = answers(model, POLICIES[label], inputs)
            torch.testing.assert_close(found, wanted, rtol=0, atol=TOLERANCE, msg=label)
            assert torch.equal(repeated, said), label
        with POLICIES["stages"].apply(model):
            cache = model(**inputs).past_key_values
    there = [(layer.keys.device.type, layer.index.device.type) for layer in cache.layers]
    wanted = ["cpu" if layer < first else "pretend" for layer in range(LAYERS)]
    assert there == [(device, device) for device in wanted]


def test_a_checkpoint_larger_than_memory(tmp_path):
    """The same as `--device auto`, with the CPU's memory limited."""
    room, dtype = {"cpu": "4MB"}, torch.bfloat16
    model = AutoModelForImageTextToText.from_pretrained(
        MODEL_DIR, device_map="auto", max_memory=room, offload_folder=tmp_path, dtype=dtype
    )
    assert "disk" in model.hf_device_map.values()
    whole = load_weights("demo", "bfloat16", "auto")
    assert fingerprint(model) == fingerprint(whole) != fingerprint(load_weights("demo"))
    policy = builders.dop(whole.config.text_config.num_hidden_layers, 8, 6, "1/4", CLS)
    inputs = batch_inputs(samples(2), device_of_inputs(model))
    said = [answers(each, policy, inputs) for each in (model, whole)]
    assert all(torch.equal(one, other) for one, other in zip(*said, strict=True))


def test_graphs_move_nothing(tmp_path):
    model = fetched_from_memory(tiny.llava(LAYERS), tmp_path)
    with refuses(ModelError, "accelerate", "graphs"):
        Graphs().check_device(model)
