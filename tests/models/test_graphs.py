"""CUDA graphs give the layers' own results; most tests need no GPU."""

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from opsearch.errors import ModelError, PolicyError
from opsearch.models.families import family_for
from opsearch.models.pruned.apply import patched_layers
from opsearch.models.pruned.cache import PrunedCache
from opsearch.models.pruned.cuda_graphs import Graphs
from opsearch.models.pruned.execution import Execution, ResolvedPolicy
from opsearch.models.pruned.ranking import plan_inputs
from opsearch.rankers.base import Prompt
from tests.models.policies import LAYERS, POLICIES, with_rankers_of
from tests.support import tiny
from tests.support.families import EACH, FAMILIES, QUICK, built, has_one_kind
from tests.support.families.prompt import prompts
from tests.support.flash import FLASH
from tests.support.messages import refuses

pytestmark = pytest.mark.usefixtures("no_grad", "flash_attn")

SOME = ["dop, kv leaves", "dop, kv stays", "random counts 0", "fitprune", "two at once"]


class Rerun(Graphs):
    """Graphs that recompute into the tensors of the first run instead of replaying."""

    shapes = 0

    def check_device(self, model):
        pass

    def capture(self, run):
        self.shapes += 1
        computed = run()

        def replay():
            for kept, new in zip(tensors(computed), tensors(run()), strict=True):
                kept.copy_(new)

        return replay, computed


def tensors(computed):
    rows = [rows.index for rows, *_ in computed.kv]
    return [computed.hidden, *rows, *(t for _, *pair in computed.kv for t in pair)]


def alike(name, *layouts):
    """Return prompts of equal length with images of equal size at other positions."""
    family = FAMILIES[name]
    pace = len(family.SIZES)
    return [prompts(family, each, seed=pace * i) for i, each in enumerate(layouts)]


def logits(model, policy, inputs, graphs=None):
    with policy.apply(model, graphs=graphs):
        return model(**inputs).logits


of_one_kind = pytest.mark.parametrize("name", [each for each in EACH if has_one_kind(each.id)])


@pytest.mark.parametrize("name", [each for each in EACH if not has_one_kind(each.id)])
def test_layers_of_several_kinds_are_refused_before_the_first_prefill(name):
    """A graph has one mask for all layers."""
    policy = with_rankers_of(family_for(name))["stages"]
    refused = refuses(ModelError, "sliding_attention, full_attention", "leave out graphs")
    with refused, policy.apply(built(name, LAYERS), graphs=Rerun()):
        pass


@of_one_kind
def test_a_graph_answers_other_prompts_of_its_shape(name):
    model = built(name, LAYERS)
    one, other = alike(name, [[3, 4]], [[5, 2]])
    for label, policy in with_rankers_of(family_for(name)).items():
        if name != "llava" and label not in SOME:
            continue
        graphs = Rerun()
        for inputs in (one, other):
            wanted = logits(model, policy, inputs)
            assert torch.equal(logits(model, policy, inputs, graphs), wanted), label
        stock = policy.is_identity(int((one["input_ids"] == tiny.IMAGE).sum()))
        assert graphs.shapes == int(not stock), label


@pytest.mark.parametrize("attention", ["sdpa", "eager", FLASH])
def test_batches_of_equal_prompts(attention):
    model, graphs = built("llava", LAYERS, attention), Rerun()
    for inputs in alike("llava", [[3, 4], [5, 2]], [[1, 6], [2, 5]]):
        for label in SOME:
            wanted = logits(model, POLICIES[label], inputs)
            assert torch.equal(logits(model, POLICIES[label], inputs, graphs), wanted), label
    assert graphs.shapes == len(SOME), "one for each policy, kept between blocks"


@of_one_kind
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
def test_generation_goes_on_from_the_cache(name, options):
    model, inputs = built(name, LAYERS), alike(name, [[3, 4]])[0]
    policy, graphs = with_rankers_of(family_for(name))["stages"], Rerun()
    options = {"max_new_tokens": 5, "do_sample": False, **options}
    with policy.apply(model):
        wanted = model.generate(**inputs, **options)
    for _ in range(2):
        with policy.apply(model, graphs=graphs):
            assert torch.equal(model.generate(**inputs, **options), wanted)


def test_a_cache_survives_the_next_prompt():
    model, policy = built("llava", LAYERS), POLICIES["stages"]
    one, other = alike("llava", [[3, 4]], [[5, 2]])
    token = {"input_ids": torch.tensor([[7]])}
    with policy.apply(model):
        wanted = model(**token, past_key_values=model(**one).past_key_values).logits
    with policy.apply(model, graphs=Rerun()):
        first, second = model(**one), model(**other)
        assert torch.equal(model(**token, past_key_values=first.past_key_values).logits, wanted)
        assert not torch.equal(first.logits, second.logits)
        assert model(**one, use_cache=False).past_key_values is None
        assert type(model(**tiny.prompts([[5]])).past_key_values) is not PrunedCache


def test_the_oldest_shape_is_forgotten(monkeypatch):
    monkeypatch.setattr("opsearch.models.pruned.cuda_graphs._MOST", 2)
    model, policy, graphs = built("llava", LAYERS), POLICIES["stages"], Rerun()
    for length, captured in ((4, 1), (5, 2), (6, 3), (5, 3), (4, 4)):
        (inputs,) = alike("llava", [[3, length]])
        wanted = logits(model, policy, inputs)
        assert torch.equal(logits(model, policy, inputs, graphs), wanted)
        assert graphs.shapes == captured


# Without a GPU, meta tensors stand for tensors on a device. Code that waits for the device fails,
# because a meta tensor has no values to read; copies to the device are detected here.


class NoCopies(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        assert all(t.is_meta for t in (*given, *tree_leaves(found)) if torch.is_tensor(t)), func
        if func in (torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default):
            assert not any(t.dtype == torch.bool for t in given[1:]), "places that must be counted"
        return found


class NoLists(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        assert func not in (torch.tensor, torch.as_tensor), "copied from the host"
        return func(*args, **(kwargs or {}))


class Watched(Rerun):
    def capture(self, run):
        with NoCopies(), NoLists():
            return (lambda: None), run()


@pytest.mark.parametrize("attention", ["sdpa", "eager", FLASH])
@pytest.mark.parametrize(
    ("name", "batch"), [*((name, 1) for name in QUICK if has_one_kind(name)), ("llava", 2)]
)
def test_nothing_that_is_captured_waits_for_the_device(name, batch, attention):
    everything = (name, batch, attention) == ("llava", 1, "sdpa")
    dtype = torch.bfloat16 if attention == FLASH else torch.float32  # float32 would need autocast
    with torch.device("meta"):
        model = FAMILIES[name].model(LAYERS, attention).to(dtype)
        visual = torch.zeros(batch, 16, dtype=torch.bool)
        hidden = torch.zeros(batch, 16, 32, dtype=dtype)
        for policy in POLICIES.values() if everything else map(POLICIES.get, SOME):
            prompt = Prompt(visual, torch.ones_like(visual), (9,) * batch, embeds=hidden)
            prompt.n_other = (7,) * batch
            cache = PrunedCache(LAYERS)
            cache.plan_inputs = plan_inputs(
                prompt, [Execution(ResolvedPolicy(policy))] * len(prompt.n_visual)
            )
            with patched_layers(model, family_for(name), Watched()):
                out = model.model.language_model(inputs_embeds=hidden, past_key_values=cache)
            assert out.last_hidden_state.shape == hidden.shape
            assert [layer.keys.shape[2] for layer in cache.layers] == [
                7 + kv for kv in policy.executed(9)[:, 1].tolist()
            ]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x.index_put_((x > 0,), x.new_ones(())),
        lambda x: torch.tensor([1, 2], device="meta"),
        lambda x: torch.arange(3, device="cpu").to("meta"),
        lambda x: x.copy_(torch.ones(3, device="cpu")),
    ],
)
def test_what_waits_is_seen(wrong):
    """Without these detections the test above would be vacuous."""
    x = torch.zeros(3, device="meta")
    with pytest.raises((AssertionError, RuntimeError, NotImplementedError)), NoCopies(), NoLists():
        wrong(x)


# Refusals


def test_models_that_are_not_on_a_gpu():
    model = built("llava", LAYERS)
    with refuses(ModelError, "CUDA", "cpu", "graphs"):
        logits(model, POLICIES["stages"], tiny.prompts([[3, 4]]), Graphs())


@pytest.mark.parametrize(
    "layout", [[[3, 4], [3, 8]], [[3, 4], [1, 0, 6]], [[3, 4], [16]]], ids=["padded", "two", "none"]
)
def test_batches_of_unequal_prompts(layout):
    with refuses(PolicyError, "padding", 9, "graphs"):
        logits(built("llava", LAYERS), POLICIES["stages"], tiny.prompts(layout), Rerun())


def test_gradients():
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        refuses(PolicyError, "torch.no_grad()", "graphs"),
    ):
        logits(tiny.llava(LAYERS), POLICIES["stages"], tiny.prompts([[3, 4]]), Rerun())


@pytest.mark.parametrize("place", ["", ".mlp", ".self_attn.q_proj"])
def test_hooks_that_a_graph_would_not_run(place):
    model, inputs, graphs = tiny.llava(LAYERS), tiny.prompts([[3, 4]]), Rerun()
    wanted = logits(model, POLICIES["stages"], inputs, graphs)
    handle = model.get_submodule(f"model.language_model.layers.2{place}").register_forward_hook(
        lambda *args: None
    )
    with refuses(PolicyError, "hooks", f"layer 2{place} ", "remove", "graphs"):
        logits(model, POLICIES["stages"], inputs, graphs)
    handle.remove()
    assert torch.equal(logits(model, POLICIES["stages"], inputs, graphs), wanted)


def test_hooks_of_transformers_that_record_outputs_do_not_matter():
    model, inputs = tiny.llava(LAYERS), tiny.prompts([[3, 4]])
    model(**inputs, output_hidden_states=True, output_attentions=True)
    wanted = logits(model, POLICIES["stages"], inputs)
    assert torch.equal(logits(model, POLICIES["stages"], inputs, Rerun()), wanted)


# On a GPU


@pytest.mark.gpu
@of_one_kind
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_captured_graph_answers_like_the_layers(name, attention):
    model = FAMILIES[name].model(LAYERS, attention).cuda()
    graphs = Graphs()
    for label, policy in with_rankers_of(family_for(name)).items():
        for inputs in (*alike(name, [[3, 4]], [[5, 2]]), *alike(name, [[1, 6]])):
            inputs = {key: value.cuda() for key, value in inputs.items()}
            wanted = logits(model, policy, inputs)
            found = logits(model, policy, inputs, graphs)
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4, msg=label)


@pytest.mark.gpu
@of_one_kind
def test_generation_goes_on_from_a_captured_graph(name):
    model, (inputs,) = FAMILIES[name].model(LAYERS).cuda(), alike(name, [[3, 4]])
    inputs = {key: value.cuda() for key, value in inputs.items()}
    policy, graphs = with_rankers_of(family_for(name))["stages"], Graphs()
    with policy.apply(model):
        wanted = model.generate(**inputs, max_new_tokens=5, do_sample=False)
    for _ in range(3):
        with policy.apply(model, graphs=graphs):
            found = model.generate(**inputs, max_new_tokens=5, do_sample=False)
        assert torch.equal(found, wanted)
