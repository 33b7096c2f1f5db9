"""Models that accelerate spreads over devices, or whose weights it fetches from the CPU or disk."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from opsearch.errors import ModelError
from opsearch.runtime.adapters import ADAPTERS
from opsearch.runtime.graphs import Graphs
from opsearch.runtime.load import fingerprint
from opsearch.runtime.places import device_of_inputs
from tests import tiny
from tests.families import FAMILIES
from tests.families.prompt import prompts
from tests.runtime.policies import LAYERS, POLICIES, with_rankers_of

accelerate = pytest.importorskip("accelerate", reason="make test-lmms has accelerate")

pytestmark = [
    pytest.mark.usefixtures("no_grad"),
    pytest.mark.filterwarnings("ignore:The following device_map keys"),  # those of parameters
]

SOME = ("dop, kv leaves", "dop, kv stays", "random counts 0", "two at once")


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


def answers(model, policy, inputs):
    with policy.apply(model):
        said = model.generate(**inputs, max_new_tokens=3, do_sample=False, num_beams=2)
        return model(**inputs).logits, said


def hooks_and_forwards(model):
    names = ("_hf_hook", "_old_forward", "forward")
    return [vars(module).get(name) for module in model.modules() for name in names]


# Stock models of the other families do not find the newline token's weights when all are fetched.
@pytest.mark.parametrize(
    ("offload", "name"),
    [
        (fetched_from_memory, "llava"),
        (fetched_from_disk, "llava"),
        *((some_fetched_from_disk, name) for name in FAMILIES),
    ],
)
def test_fetched_weights_say_the_same(offload, name, tmp_path):
    model, inputs = FAMILIES[name].model(LAYERS), prompts(FAMILIES[name], [[3, 4], [1, 0, 6]])
    known, policies = fingerprint(model), with_rankers_of(ADAPTERS[name])
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


@pytest.mark.parametrize("first", [0, 3])
def test_all_that_a_layer_reads_is_on_its_device(first):
    model, inputs = spread(first), tiny.prompts([[3, 4], [1, 6]])
    for label in (*SOME, "sparsevlm", "rows without any key"):
        with POLICIES[label].apply(model), OneDevice():
            cache = model.model(**inputs).past_key_values
            token = {"input_ids": torch.tensor([[7], [8]]), "past_key_values": cache}
            model.model(**token, attention_mask=torch.ones(2, 17))
        there = [(layer.keys.device.type, layer.index.device.type) for layer in cache.layers]
        wanted = ["cpu" if layer < first else "meta" for layer in range(LAYERS)]
        assert there == [(device, device) for device in wanted], label


def test_graphs_move_nothing(tmp_path):
    model = fetched_from_memory(tiny.llava(LAYERS), tmp_path)
    with pytest.raises(ModelError, match=r"accelerate moves .* leave out graphs"):
        Graphs().check(model)
