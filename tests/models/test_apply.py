"""`with policy.apply(model)` restores the model, and refuses what it cannot prune."""

import threading
from fractions import Fraction

import pytest
import torch
from transformers import DynamicCache, GenerationMixin, StaticCache
from transformers.cache_utils import Cache, QuantizedLayer

from opsearch.errors import ModelError, OpsearchError, PolicyError
from opsearch.models.pruned.plan import Plan
from opsearch.policy import builders
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec
from tests.models import policies
from tests.models.judge import TOLERANCE, deviation, samples
from tests.support import tiny
from tests.support.families import FAMILIES, built
from tests.support.families.prompt import prompts
from tests.support.messages import refuses

pytestmark = pytest.mark.usefixtures("no_grad")

LAYERS = 4
CLS, RANDOM = RankerSpec("cls"), RankerSpec("random")
HALF = builders.dop(LAYERS, 3, 2, "1/2", CLS)


@pytest.fixture(scope="module")
def shared():
    model = tiny.llava(LAYERS)
    with torch.inference_mode():
        model(**tiny.prompts([[3, 4]]))  # the vision tower installs its own hooks on first use
    return model


@pytest.fixture
def model(shared):
    """Yield the module's model, and check that the test left it unchanged."""
    before = traces(shared)
    yield shared
    assert traces(shared) == before


@pytest.fixture(scope="module")
def inputs():
    return tiny.prompts([[3, 4]])


def traces(model):
    """Return all hooks and callables on the modules that a policy could leave behind."""
    return {
        (name, key): list(value) if isinstance(value, dict) else value
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if callable(value) or "hook" in key
    }


def layers(model):
    return model.model.language_model.layers


# Restored state


def test_the_identity_installs_nothing_and_changes_no_bit(model, inputs):
    stock, before = model(**inputs).logits, traces(model)
    with builders.identity(LAYERS).apply(model) as entered:
        assert entered is model
        assert traces(model) == before
        out = model(**inputs)
    assert torch.equal(out.logits, stock)
    assert type(out.past_key_values) is DynamicCache


def test_the_model_is_as_before_after_the_block(model, inputs):
    stock, before = model(**inputs).logits, traces(model)
    with HALF.apply(model):
        assert traces(model) != before
        pruned = model(**inputs).logits
    assert traces(model) == before
    assert not torch.equal(pruned, stock)
    assert torch.equal(model(**inputs).logits, stock)


def test_the_model_is_as_before_after_an_exception_in_the_block(model, inputs):
    stock, before = model(**inputs).logits, traces(model)
    with pytest.raises(ZeroDivisionError), HALF.apply(model):
        raise ZeroDivisionError
    assert traces(model) == before
    assert torch.equal(model(**inputs).logits, stock)


def test_an_exception_inside_a_layer_spoils_neither_block_nor_model(model, inputs):
    def fail(module, args):
        raise ZeroDivisionError

    stock, before = model(**inputs).logits, traces(model)
    with HALF.apply(model):
        pruned = model(**inputs).logits
        handle = layers(model)[2].mlp.register_forward_pre_hook(fail)
        with pytest.raises(ZeroDivisionError):
            model(**inputs)
        handle.remove()
        assert torch.equal(model(**inputs).logits, pruned), "the next prefill starts afresh"
    assert traces(model) == before
    assert torch.equal(model(**inputs).logits, stock)


def test_a_forward_of_the_layers_own_is_kept_and_used(model, inputs):
    """accelerate replaces `layer.forward` on the instance; generated tokens must use it."""
    calls = []
    for layer in layers(model):
        own = layer.forward

        def counted(*args, _own=own, **kwargs):
            calls.append(1)
            return _own(*args, **kwargs)

        layer.forward = counted
    placed = [layer.forward for layer in layers(model)]
    try:
        with HALF.apply(model):
            cache = model(**inputs).past_key_values
            calls.clear()
            model(input_ids=torch.tensor([[7]]), past_key_values=cache)
            assert len(calls) == LAYERS
        assert [layer.forward for layer in layers(model)] == placed
    finally:
        for layer in layers(model):
            del layer.forward


def test_a_plan_that_moves_before_every_layer_stays_the_same(inputs, monkeypatch):
    """Both devices of a move are the same one here."""
    model = tiny.llava(policies.LAYERS)
    for label, policy in policies.POLICIES.items():
        with policy.apply(model):
            wanted = model(**inputs).logits
            with monkeypatch.context() as moving:
                moving.setattr(Plan, "to_device", Plan.move)
                assert torch.equal(model(**inputs).logits, wanted), label


def test_layers_of_two_kinds_keep_apart_copies_of_their_masks():
    """Where a model is spread over devices, each layer receives copies and frees them."""
    model = built("cohere2_vision", LAYERS)
    inputs = prompts(FAMILIES["cohere2_vision"], policies.MIXED)

    def copied(layer, args, kwargs):
        cos_sin = [each.clone() for each in kwargs["position_embeddings"]]
        mask = kwargs["attention_mask"].clone()
        return args, kwargs | {"position_embeddings": cos_sin, "attention_mask": mask}

    hooks = []
    with builders.tokens(LAYERS, "1/2", RANDOM).apply(model):
        wanted = model(**inputs).logits
        for layer in model.model.language_model.layers:
            hooks.append(layer.register_forward_pre_hook(copied, with_kwargs=True))
        try:
            found = model(**inputs).logits
        finally:
            for hook in hooks:
                hook.remove()
    assert torch.equal(found, wanted)


def test_hooks_of_the_user_work_inside_the_block_and_survive_it(model, inputs):
    seen = []
    handle = layers(model)[1].register_forward_hook(lambda *args: seen.append("layer"))
    before = traces(model)
    try:
        with HALF.apply(model):
            model(**inputs)
            assert seen == ["layer"]
        assert traces(model) == before
        model(**inputs)
        assert seen == ["layer", "layer"]
    finally:
        handle.remove()


def test_hooks_added_inside_the_block_survive_it(model, inputs):
    seen = []
    with HALF.apply(model):
        handle = model.model.register_forward_pre_hook(lambda *args: seen.append("trunk"))
    model(**inputs)
    handle.remove()
    assert seen == ["trunk"]


def test_a_block_can_follow_another(model, inputs):
    with HALF.apply(model):
        first = model(**inputs).logits
    with builders.vtw(LAYERS, 1).apply(model):
        other = model(**inputs).logits
    with HALF.apply(model):
        assert torch.equal(model(**inputs).logits, first)
    assert not torch.equal(other, first)


def test_text_only_prompts_run_as_the_stock_model(model):
    text = tiny.prompts([[5], [8]])
    stock = model(**text)
    with HALF.apply(model):
        out = model(**text)
    assert torch.equal(out.logits, stock.logits)
    assert type(out.past_key_values) is DynamicCache


def test_a_given_empty_cache_and_a_tuple_are_understood(model, inputs):
    with HALF.apply(model):
        wanted = model(**inputs).logits
        assert torch.equal(model(**inputs, past_key_values=DynamicCache()).logits, wanted)
        logits, cache = model(**inputs, return_dict=False)[:2]
    assert torch.equal(logits, wanted)
    assert cache.get_seq_length() == inputs["input_ids"].shape[1]


def test_parts_of_the_model_can_be_called_alone(model, inputs):
    """Positional arguments work; the vision tower and the decoder alone are not pruned."""
    ids, pixels = inputs["input_ids"], inputs["pixel_values"]
    trunk, tower = model.model, model.model.vision_tower
    patches, embeds = tower(pixels, return_dict=False)[0], model.get_input_embeddings()(ids)
    text = trunk.language_model(inputs_embeds=embeds).last_hidden_state
    with HALF.apply(model):
        wanted = trunk(**inputs).last_hidden_state
        assert torch.equal(trunk(ids, pixels).last_hidden_state, wanted)
        assert torch.equal(tower(pixels, return_dict=False)[0], patches)
        assert torch.equal(trunk.language_model(inputs_embeds=embeds).last_hidden_state, text)


def test_features_computed_before_the_prompt_are_ranked(model, inputs):
    """generate() encodes the images first and passes their features to the forward."""
    encode = model.model.get_image_features
    if not hasattr(GenerationMixin, "_expand_multimodal_outputs"):
        pytest.skip("old transformers takes no features")
    with HALF.apply(model):
        wanted = model(**inputs).logits
        images = {"image": encode(inputs["pixel_values"], return_dict=True)}
        fed = {key: inputs[key] for key in ("input_ids", "attention_mask")}
        assert torch.equal(model(**fed, mm_encoder_outputs=images).logits, wanted)


def test_use_cache_false_returns_no_cache(model, inputs):
    with HALF.apply(model):
        out = model(**inputs, use_cache=False)
        assert torch.equal(out.logits, model(**inputs).logits)
    assert out.past_key_values is None


def test_a_cache_of_the_caller_holds_the_prompt_afterwards(model, inputs):
    """A caller's own cache object must hold the prompt afterwards."""
    token = {"input_ids": torch.tensor([[7]])}
    with HALF.apply(model):
        wanted = model(**token, past_key_values=model(**inputs).past_key_values).logits
        mine = DynamicCache()
        model(**inputs, past_key_values=mine)
        assert mine.get_seq_length() == inputs["input_ids"].shape[1]
        assert torch.equal(model(**token, past_key_values=mine).logits, wanted)


def test_a_cache_cannot_be_cropped_into_the_image(model, inputs):
    """Layers hold different columns in the image; text after it can be cropped."""
    with HALF.apply(model):
        cache = model(**inputs).past_key_values
        cache.crop(-2)
        shorter = {key: inputs[key][:, :-2] for key in ("input_ids", "attention_mask")}
        fresh = model(**shorter, pixel_values=inputs["pixel_values"]).past_key_values
        token = {"input_ids": torch.tensor([[7]])}
        cropped = model(**token, past_key_values=cache).logits
        wanted = model(**token, past_key_values=fresh).logits
        torch.testing.assert_close(cropped, wanted, rtol=0, atol=TOLERANCE)
        with refuses(PolicyError, "crop", "prefill"):
            cache.crop(-6)


class Int8(torch.nn.Module):
    """A linear layer of 8-bit weights without an attribute `weight`, as quantisers make."""

    def __init__(self, linear):
        super().__init__()
        scale = linear.weight.abs().amax(1, keepdim=True) / 127
        self.register_buffer("scale", scale)
        self.register_buffer("rounded", (linear.weight / scale).round().to(torch.int8))

    def dequantized(self):
        return self.rounded * self.scale

    def forward(self, x):
        return torch.nn.functional.linear(x, self.dequantized())


def test_quantised_weights(inputs):
    """The runtime calls the layers' modules and never reads their weights."""
    model, rounded = tiny.llava(LAYERS), tiny.llava(LAYERS)
    for name, linear in list(layers(model).named_modules()):
        if isinstance(linear, torch.nn.Linear):
            quantised = Int8(linear)
            parent, _, own = name.rpartition(".")
            setattr(layers(model).get_submodule(parent), own, quantised)
            layers(rounded).get_submodule(name).weight.copy_(quantised.dequantized())
    for policy in (HALF, builders.dop(LAYERS, 3, 2, "1/2", RANDOM, kv="stays")):
        with policy.apply(model), policy.apply(rounded):
            assert torch.equal(model(**inputs).logits, rounded(**inputs).logits)


# Threads


def in_threads(*jobs):
    """Run jobs at the same time, and raise the first job's exception."""
    failures, gate = [], threading.Barrier(len(jobs))

    def run(job):
        try:
            with torch.inference_mode():
                gate.wait(timeout=30)
                job()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def test_two_models_in_two_threads(model, inputs):
    other = tiny.llava(LAYERS, seed=1)
    policies = {model: HALF, other: builders.stages(LAYERS, {0: 1, 1: "1/3"}, CLS)}

    def job(which):
        rows = samples(which, inputs)
        with policies[which].apply(which):
            answers = [model_logits(which, inputs) for _ in range(5)]
        with policies[which].apply(which):
            alone = model_logits(which, inputs)
        assert all(torch.equal(answer, alone) for answer in answers)
        assert deviation(which, inputs, policies[which], rows) <= TOLERANCE

    in_threads(lambda: job(model), lambda: job(other))


def model_logits(model, inputs):
    return model(**inputs).logits


@pytest.mark.parametrize("policy", [HALF, builders.shortv(LAYERS, [1, 2])], ids=["dop", "shortv"])
def test_one_model_from_two_threads(model, policy):
    """The second thread prefills another image while the first is between [CLS] query and keys."""
    prompts = [tiny.prompts([[3, 4]], seed=seed) for seed in (0, 1)]
    attention = model.model.vision_tower.encoder.layers[-2].self_attn
    meeting = threading.Barrier(2)

    def meet(*args):
        meeting.wait(timeout=30)

    with policy.apply(model):
        alone = [model(**prompt).logits for prompt in prompts]
        # Registered later, so it runs after the policy's own hook on the same module.
        handle = attention.q_proj.register_forward_hook(meet)
        together = {}

        def job(index):
            together[index] = model(**prompts[index]).logits

        try:
            in_threads(lambda: job(0), lambda: job(1))
        finally:
            handle.remove()
    assert not torch.equal(*alone)
    for index in (0, 1):
        assert torch.equal(together[index], alone[index])


def test_a_block_of_one_thread_is_seen_by_all(model):
    with HALF.apply(model), refuses(PolicyError, "applied", "`with`"):
        in_threads(lambda: HALF.apply(model).__enter__())


# Refusals, each of which names the next step


@pytest.mark.parametrize("inner", [builders.vtw(LAYERS, 1), builders.identity(LAYERS)])
def test_nested_blocks(model, inputs, inner):
    """The identity is refused too: inside another policy it is not the original model."""
    with HALF.apply(model):
        wanted = model(**inputs).logits
        with refuses(PolicyError, "applied", "`with`"), inner.apply(model):
            pass
        assert torch.equal(model(**inputs).logits, wanted), "the outer policy goes on"


def test_new_images_on_a_cache_that_holds_a_prompt(model, inputs):
    with HALF.apply(model):
        cache = model(**inputs).past_key_values
        with refuses(PolicyError, "image", "empty cache"):
            model(**inputs, past_key_values=cache)


def test_new_images_in_generate_on_a_cache_that_holds_a_prompt(model, inputs):
    ids = torch.cat([inputs["input_ids"]] * 2, 1)
    longer = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with HALF.apply(model):
        cache = model(**inputs).past_key_values
        with refuses(PolicyError, "image", "empty cache"):
            model.generate(
                **longer,
                pixel_values=inputs["pixel_values"],
                past_key_values=cache,
                max_new_tokens=2,
                do_sample=False,
            )


def test_prefill_in_chunks(model, inputs):
    """Counts and rankings need whole images, and the second chunk holds part of one."""
    policy = policy_of(rankers=((0, RANDOM),))
    with refuses(PolicyError, "image", "prefill_chunk_size"), policy.apply(model):
        model.generate(**inputs, max_new_tokens=2, do_sample=False, prefill_chunk_size=6)


@pytest.mark.parametrize("kind", ["static", "offloaded", "offloaded_static", "quantized"])
def test_caches_that_cannot_be_ragged(model, inputs, kind):
    with refuses(PolicyError, "DynamicCache", "cache_implementation"), HALF.apply(model):
        options = {"max_new_tokens": 2, "do_sample": False, "disable_compile": True}
        model.generate(**inputs, **options, cache_implementation=kind)


def test_a_static_cache_of_the_caller(model, inputs):
    cache = StaticCache(config=model.config.get_text_config(), max_cache_len=32)
    with refuses(PolicyError, "StaticCache", "DynamicCache"), HALF.apply(model):
        model(**inputs, past_key_values=cache)


def test_an_offloaded_cache_of_the_caller(model, inputs):
    cache = DynamicCache()
    cache.offloading = True  # its constructor needs a GPU
    with refuses(PolicyError, "offloaded DynamicCache", "cache_implementation"), HALF.apply(model):
        model(**inputs, past_key_values=cache)


class Halves(QuantizedLayer):
    """A quantised cache layer in half precision, without another package."""

    def _quantize(self, tensor, axis):
        return tensor.half()

    def _dequantize(self, tensor):
        return tensor.float()


def test_a_quantised_cache_of_the_caller(model, inputs):
    cache = Cache(layers=[Halves() for _ in range(LAYERS)])
    with refuses(PolicyError, "Cache", "DynamicCache"), HALF.apply(model):
        model(**inputs, past_key_values=cache)


def test_quantised_layers_in_a_dynamic_cache(model, inputs):
    cache = DynamicCache()
    cache.layers = [Halves() for _ in range(LAYERS)]
    with refuses(PolicyError, "Halves", "DynamicCache", "cache_implementation"), HALF.apply(model):
        model(**inputs, past_key_values=cache)


@pytest.mark.parametrize("wanted", ["output_hidden_states", "output_attentions"])
def test_outputs_of_every_layer(model, inputs, wanted):
    with refuses(PolicyError, wanted, "original"), HALF.apply(model):
        model(**inputs, **{wanted: True})


def test_embeddings_without_ids(model, inputs):
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    with refuses(PolicyError, "inputs_embeds", "input_ids"), HALF.apply(model):
        model(inputs_embeds=embeds)


@pytest.mark.parametrize("shape", [(1, 1, 16, 16), (1, 16, 16)], ids=["4-D", "3-D"])
@pytest.mark.parametrize("dtype", [torch.bool, torch.float32], ids=str)
def test_masks_of_rows_by_columns(model, inputs, shape, dtype):
    mask = torch.ones(shape, dtype=dtype)
    with refuses(PolicyError, "attention_mask", shape, "processor"), HALF.apply(model):
        model(**{**inputs, "attention_mask": mask})


def test_a_prompt_that_ends_with_an_image(model):
    """The first answer token would come from a visual position, which is empty under a policy."""
    with refuses(PolicyError, "image", "text"), HALF.apply(model):
        model.generate(**tiny.prompts([[3, 0]]), max_new_tokens=2, do_sample=False)


@pytest.mark.parametrize("ranker", [CLS, RANDOM], ids=str)
def test_visual_tokens_without_an_image(model, inputs, ranker):
    without = {key: value for key, value in inputs.items() if key != "pixel_values"}
    policy = policy_of(rankers=((0, ranker),))
    with refuses(PolicyError, "image", "pixel_values"), policy.apply(model):
        model(**without)


def test_visual_tokens_of_another_image(model, inputs):
    """Eight placeholders for an image of nine visual tokens, in a forward and in generate()."""
    ids = inputs["input_ids"].clone()
    ids[0, (ids[0] == tiny.IMAGE).nonzero()[0]] = 7
    for name, options in (("forward", {}), ("generate", {"max_new_tokens": 2})):
        with refuses(PolicyError, 8, 9, "input_ids", "pixel_values"), HALF.apply(model):
            getattr(model, name)(**{**inputs, "input_ids": ids}, **options)
    with HALF.apply(model):
        model(**inputs)


def test_a_mismatch_is_a_value_error_as_in_the_stock_model(model, inputs):
    missing = inputs["input_ids"].clone()
    missing[0, 5] = 9
    for name, options in (("forward", {}), ("generate", {"max_new_tokens": 2})):
        call = {**inputs, "input_ids": missing, **options}
        with pytest.raises(ValueError, match="tokens"):
            getattr(model, name)(**call)
        with pytest.raises(ValueError, match="visual tokens"), HALF.apply(model):
            getattr(model, name)(**call)


@pytest.mark.parametrize("shape", [(1, 0), (0, 5)], ids=["no tokens", "no samples"])
@pytest.mark.parametrize("name", ["forward", "generate"])
def test_empty_prompts(model, inputs, shape, name):
    empty = torch.zeros(shape, dtype=torch.long)
    options = {"max_new_tokens": 2} if name == "generate" else {}
    for images in ({}, {"pixel_values": inputs["pixel_values"]}):
        with refuses(PolicyError, "empty", shape, "at least one token"), HALF.apply(model):
            getattr(model, name)(
                input_ids=empty, attention_mask=torch.ones_like(empty), **images, **options
            )


def policy_of(**changes):
    fields = {"counts": HALF.counts, "rankers": HALF.rankers, **changes}
    return Policy(**fields)


PARTIAL = ((Fraction(1, 2),) * 3,) * LAYERS
UNFIT = {
    "another family": (policy_of(model_type="qwen2_5_vl"), ["qwen2_5_vl", "llava"]),
    "another number of layers": (builders.vtw(LAYERS + 1, 2), [5, 4, "--model"]),
    "no ranker": (policy_of(counts=PARTIAL, rankers=()), ["ranker", "RankerSpec('uniform')"]),
    "a ranker that is not nested": (
        builders.stages(LAYERS, {0: "1/2", 1: "1/3"}, RankerSpec("uniform")),
        ["uniform", 2, "cls, divprune"],
    ),
    "a ranker inside the decoder": (
        policy_of(rankers=((2, RANDOM),)),
        ["random", "layer 2", "layer 0", "fastv, "],
    ),
    "a parameter that the ranker lacks": (
        policy_of(rankers=((0, RankerSpec("cls", (("seed", 1),))),)),
        ["cls(seed=1)", "--ranker cls"],
    ),
}


@pytest.mark.parametrize(("policy", "words"), UNFIT.values(), ids=UNFIT.keys())
def test_policies_that_do_not_fit(model, policy, words):
    with refuses(PolicyError, *words), policy.apply(model):
        pass


def test_an_unregistered_ranker(model):
    policy = policy_of(rankers=((0, RankerSpec("best")),))
    with refuses(OpsearchError, "'best'", "cls, divprune, "), policy.apply(model):
        pass


def test_several_vision_layers_give_no_cls_attention():
    model = tiny.llava(LAYERS, feature_layer=-2)
    model.config.vision_feature_layer = [-2, -1]
    with refuses(ModelError, "[-2, -1]", "--ranker", "random"), HALF.apply(model):
        pass


def test_patches_that_include_cls_are_not_ranked_by_it(inputs):
    model = tiny.llava(LAYERS)
    model.config.vision_feature_select_strategy = "full"
    with refuses(ModelError, "full", "--ranker", "random"), HALF.apply(model):
        pass


def test_unsupported_attention():
    model = tiny.llava(LAYERS)
    model.config.get_text_config()._attn_implementation = "flex_attention"
    with refuses(ModelError, "flex_attention", "sdpa", "flash_attention_2"), HALF.apply(model):
        pass


@pytest.mark.parametrize("family", ["bert", "no_such_model"])
def test_unsupported_families(family):
    model = tiny.llava(LAYERS)
    model.config.model_type = family
    with refuses(ModelError, family, "llava", "qwen2_5_vl"), HALF.apply(model):
        pass


def test_weights_on_the_meta_device():
    with torch.device("meta"):
        model = tiny.llava(LAYERS)
    with refuses(ModelError, "meta", "load"), HALF.apply(model):
        pass
