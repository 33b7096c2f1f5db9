"""generate() on a pruned cache equals recomputing everything for each token."""

from dataclasses import replace

import pytest
import torch
from transformers import DynamicCache, GenerationMixin

from opsearch.costs import KVBytes
from opsearch.costs.shape import Shape
from opsearch.errors import PolicyError
from opsearch.models.pruned.cache import PrunedCache
from opsearch.policy import builders
from opsearch.policy.ranker import RankerSpec
from tests.models.judge import TOLERANCE, inside, rank, samples
from tests.models.policies import INSIDE, MIXED
from tests.support import reference, tiny
from tests.support.flash import FLASH
from tests.support.messages import refuses

pytestmark = pytest.mark.usefixtures("no_grad")

LAYERS, STEPS = 5, 6
CLS = RankerSpec("cls")
POLICIES = {
    "kv leaves": builders.dop(LAYERS, 3, 2, "1/2", CLS),
    "kv stays": builders.dop(LAYERS, 3, 2, "1/2", RankerSpec("random"), kv="stays"),
    "no kv in the first layer": builders.dop(LAYERS, 0, 2),
    "tokens": builders.tokens(LAYERS, "1/3", RankerSpec("uniform")),
    "stages": builders.stages(LAYERS, {0: 1, 2: "1/3"}, CLS),
    "shortv": builders.shortv(LAYERS, [1, 2, 4]),
}
# Their rankers read the attention of the prefill only, so tests that compare two prefills of
# different length leave them out.
RANKED = {label: INSIDE[label] for label in ("two at once", "fitprune")}
UNPADDED = [[3, 11], [1, 0, 4]]  # equal lengths, different numbers of visual tokens
NO_TOKEN = 10**6

# Older releases of transformers mix up the images of samples that have several.
expands_images = pytest.mark.skipif(
    not hasattr(GenerationMixin, "_expand_multimodal_outputs"), reason="old transformers"
)
repeated = pytest.mark.parametrize(
    "layout",
    [pytest.param(MIXED, marks=expands_images), [[3, 4], [1, 8], [0, 5]]],
    ids=["mixed", "one image each"],
)


def endless(attention):
    """Return a model that generates all requested tokens and no image token."""
    model = tiny.llava(LAYERS, attention=attention)
    model.generation_config.eos_token_id = NO_TOKEN
    model.generation_config.suppress_tokens = [tiny.IMAGE]
    return model


@pytest.fixture(scope="module", params=["sdpa", "eager", FLASH])
def model(request, flash_attn):
    return endless(request.param)


@pytest.fixture(scope="module", params=["sdpa", FLASH])
def fused_model(request, flash_attn):
    return endless(request.param)


@pytest.fixture(scope="module")
def sdpa_model():
    return endless("sdpa")


@pytest.fixture(params=POLICIES.values(), ids=POLICIES.keys())
def policy(request):
    return request.param


@pytest.fixture(params=[*POLICIES.values(), *RANKED.values()], ids=[*POLICIES, *RANKED])
def any_policy(request):
    return request.param


def generate(model, policy, inputs, **options):
    options = {"max_new_tokens": STEPS, "do_sample": False, **options}
    with policy.apply(model):
        return model.generate(**inputs, **options, return_dict_in_generate=True)


def decode(model, policy, sample, steps=STEPS):
    """Return the reference's greedy tokens and their logits."""
    counts = policy.resolve(sample.n_visual).tolist()
    start = sample.embeds, rank(sample, policy), counts, sample.positions
    rankers = inside(sample, policy)
    return reference.greedy(model, *start, steps, never=[tiny.IMAGE], inside=rankers)


def score(model, policy, sample, answer):
    """Return the log-probability of each token of an answer by the reference."""
    embeds = torch.cat([sample.embeds, model.model.language_model.embed_tokens(answer)])
    ranks = torch.cat([rank(sample, policy), torch.full_like(answer, reference.TEXT)])
    counts = policy.resolve(sample.n_visual).tolist()
    places, rankers = torch.arange(len(embeds)), inside(sample, policy)
    logits = reference.masked_forward(model, embeds, ranks, counts, places, rankers)
    before = logits[-len(answer) - 1 : -1].log_softmax(-1)
    return before.gather(1, answer[:, None])[:, 0]


@pytest.mark.parametrize(
    "layout", [MIXED, UNPADDED, [[3, 4]]], ids=["padded batch", "unpadded batch", "one prompt"]
)
def test_greedy_tokens_and_logits(model, any_policy, layout):
    inputs, policy = tiny.prompts(layout), any_policy
    out = generate(model, policy, inputs, output_logits=True)
    logits = torch.stack(out.logits, 1)
    for row, sample in enumerate(samples(model, inputs)):
        answer, wanted = decode(model, policy, sample)
        assert out.sequences[row, -STEPS:].tolist() == answer
        atol = TOLERANCE * max(1.0, float(wanted.std()))
        torch.testing.assert_close(logits[row], wanted, rtol=0, atol=atol)


def test_answers_depend_on_the_policy(sdpa_model):
    """Equal answers of all policies would make the comparison with the reference vacuous."""
    inputs = tiny.prompts([[3, 4]])
    runs = [generate(sdpa_model, policy, inputs).sequences for policy in POLICIES.values()]
    assert len({tuple(run[0].tolist()) for run in runs}) == len(POLICIES)


def test_without_a_cache_every_step_prefills_anew(model, policy):
    inputs = tiny.prompts(MIXED)
    cached = generate(model, policy, inputs, output_logits=True)
    bare = generate(model, policy, inputs, output_logits=True, use_cache=False)
    assert bare.past_key_values is None
    assert torch.equal(bare.sequences, cached.sequences)
    torch.testing.assert_close(
        torch.stack(bare.logits), torch.stack(cached.logits), rtol=0, atol=2 * TOLERANCE
    )


@repeated
def test_beams_are_scored_as_the_reference_does(fused_model, policy, layout):
    inputs = tiny.prompts(layout)
    options = {"num_beams": 3, "num_return_sequences": 3, "output_scores": True}
    out = generate(fused_model, policy, inputs, **options)
    rows = samples(fused_model, inputs)
    for index, answer in enumerate(out.sequences[:, -STEPS:]):
        mean = score(fused_model, policy, rows[index // 3], answer).mean()
        torch.testing.assert_close(out.sequences_scores[index], mean, rtol=0, atol=TOLERANCE)
    anew = generate(fused_model, policy, inputs, **options, use_cache=False)
    assert torch.equal(out.sequences, anew.sequences)


@repeated
def test_sampled_sequences_are_scored_as_the_reference_does(fused_model, any_policy, layout):
    inputs, policy = tiny.prompts(layout), any_policy
    torch.manual_seed(0)
    out = generate(
        fused_model, policy, inputs, do_sample=True, num_return_sequences=2, output_logits=True
    )
    said = torch.stack(out.logits, 1).log_softmax(-1)
    answers = out.sequences[:, -STEPS:]
    rows = samples(fused_model, inputs)
    for index, answer in enumerate(answers):
        got = said[index].gather(1, answer[:, None])[:, 0]
        wanted = score(fused_model, policy, rows[index // 2], answer)
        torch.testing.assert_close(got, wanted, rtol=0, atol=2 * TOLERANCE)
    assert len({tuple(answer.tolist()) for answer in answers}) > len(rows)


def test_prompt_lookup_says_the_same(model, policy):
    """Several candidate tokens per step; wrong ones are cropped off the pruned cache."""
    inputs = tiny.prompts([[3, 4]])
    # Repeated text gives the lookup something to propose.
    text = inputs["input_ids"][:, -4:]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], text, text[:, :2]], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    options = {"max_new_tokens": 20}
    plain = generate(model, policy, inputs, **options)
    guessed = generate(model, policy, inputs, **options, prompt_lookup_num_tokens=3)
    assert torch.equal(plain.sequences, guessed.sequences)


def test_an_assistant_model_says_the_same(sdpa_model):
    """The original proposes tokens; wrong ones are cropped off the pruned cache."""
    original, inputs, steps, passes = endless("sdpa"), tiny.prompts([[3, 4]]), 12, []
    (sample,) = samples(sdpa_model, inputs)
    decoder = sdpa_model.model.language_model
    counting = decoder.register_forward_pre_hook(lambda *_: passes.append(1))
    options = {"max_new_tokens": steps, "assistant_model": original}
    found = [generate(sdpa_model, policy, inputs, **options) for policy in POLICIES.values()]
    counting.remove()
    for out, (label, policy) in zip(found, POLICIES.items(), strict=True):
        answer, _ = decode(sdpa_model, policy, sample, steps)
        assert out.sequences[0, -steps:].tolist() == answer, label
    assert len(passes) < steps * len(POLICIES), "some proposals were right"


@expands_images  # older releases pass the images to it
def test_an_assistant_model_is_not_pruned(sdpa_model):
    """transformers passes no images to the assistant model."""
    original, inputs, policy = endless("sdpa"), tiny.prompts([[3, 4]]), POLICIES["tokens"]
    with policy.apply(original), refuses(PolicyError, "image", "pixel_values", "assistant"):
        generate(sdpa_model, policy, inputs, assistant_model=original)


@pytest.mark.parametrize(
    "layout",
    [[[3, 4]], [[3, 4], [1, 8]], UNPADDED],
    ids=["one prompt", "padded batch", "unpadded batch"],
)
def test_a_returned_cache_goes_on(model, policy, layout):
    """A second turn on the returned cache equals the whole conversation from scratch."""
    inputs = tiny.prompts(layout)
    first = generate(model, policy, inputs)
    turn = torch.randint(6, tiny.VOCAB, (len(layout), 5), generator=torch.manual_seed(1))
    ids = torch.cat([first.sequences, turn], 1)
    mask = torch.ones_like(ids)
    mask[:, : inputs["attention_mask"].shape[1]] = inputs["attention_mask"]
    whole = {"input_ids": ids, "attention_mask": mask}
    second = generate(
        model, policy, whole, past_key_values=first.past_key_values, output_logits=True
    )
    whole["pixel_values"] = inputs["pixel_values"]
    for row, sample in enumerate(samples(model, whole)):
        answer, wanted = decode(model, policy, sample)
        assert second.sequences[row, -STEPS:].tolist() == answer
        logits = torch.stack(second.logits, 1)[row]
        atol = TOLERANCE * max(1.0, float(wanted.std()))
        torch.testing.assert_close(logits, wanted, rtol=0, atol=atol)


def test_the_cache_stores_what_the_cost_model_counts(sdpa_model, policy):
    """Exact at batch 1; in a batch every layer is padded to its longest sample."""
    shape = replace(Shape.from_config(sdpa_model.config), kv_bytes_per_element=4)
    cost = KVBytes(shape)
    inputs = tiny.prompts([[3, 4]])
    cache = generate(sdpa_model, policy, inputs, max_new_tokens=1).past_key_values
    assert isinstance(cache, PrunedCache)
    assert cache.kv_bytes() == cost.of(policy.resolve(9), 9, 7)

    inputs = tiny.prompts(MIXED)
    cache = generate(sdpa_model, policy, inputs, max_new_tokens=1).past_key_values
    others = [7, 7, 7, 5]
    counts = [policy.resolve(n)[:, 1] for n in (9, 18, 0, 9)]
    for layer in range(LAYERS):
        rows = max(int(c[layer]) + n for c, n in zip(counts, others, strict=True))
        stored = cache.layers[layer].keys
        assert stored.shape == (4, shape.kv_heads, rows, shape.head_dim)
    stored = sum(layer.keys.numel() + layer.values.numel() for layer in cache.layers)
    assert cache.kv_bytes() == 4 * stored
    assert cache.get_seq_length() == inputs["input_ids"].shape[1], "lengths are logical"


def test_batch_operations_of_a_cache_keep_its_columns(fused_model):
    """Repeating, selecting and reordering samples equals decoding them in that order."""
    inputs = tiny.prompts(MIXED)
    policy = POLICIES["stages"]
    mask = torch.cat([inputs["attention_mask"], torch.ones(4, 1, dtype=torch.long)], 1)
    token = torch.tensor([[11], [12], [13], [14]])

    def step(change, order):
        with policy.apply(fused_model):
            cache = fused_model(**inputs).past_key_values
            change(cache)
            fed = {"input_ids": token[order], "attention_mask": mask[order]}
            return fused_model(**fed, past_key_values=cache).logits

    everyone = step(lambda cache: None, [0, 1, 2, 3])
    for order, change in (
        ([2, 0], lambda cache: cache.batch_select_indices(torch.tensor([2, 0]))),
        ([0, 0, 1, 1, 2, 2, 3, 3], lambda cache: cache.batch_repeat_interleave(2)),
        ([3, 1, 1, 0], lambda cache: cache.reorder_cache(torch.tensor([3, 1, 1, 0]))),
    ):
        changed = step(change, order)
        torch.testing.assert_close(changed, everyone[order], rtol=0, atol=TOLERANCE)


def test_a_reset_cache_takes_a_new_prompt(sdpa_model):
    policy = POLICIES["kv leaves"]
    inputs = tiny.prompts([[3, 4]])
    with policy.apply(sdpa_model):
        fresh = sdpa_model(**inputs)
        cache = fresh.past_key_values
        cache.reset()
        assert cache.get_seq_length() == 0
        again = sdpa_model(**inputs, past_key_values=cache)
    assert torch.equal(again.logits, fresh.logits)


def test_bfloat16_stays_close(policy):
    model = endless("sdpa").to(torch.bfloat16)
    inputs = tiny.prompts(MIXED)
    inputs["pixel_values"] = inputs["pixel_values"].to(torch.bfloat16)
    out = generate(model, policy, inputs, output_logits=True)
    assert out.past_key_values.layers[0].keys.dtype == torch.bfloat16
    exact = model.float()
    inputs["pixel_values"] = inputs["pixel_values"].float()
    for row, sample in enumerate(samples(exact, inputs)):
        counts = policy.resolve(sample.n_visual).tolist()
        start = sample.embeds, rank(sample, policy), counts, sample.positions
        wanted = reference.masked_forward(exact, *start)[-1]
        assert (out.logits[0][row] - wanted).abs().max() < 0.15
        assert wanted.std() > 0.5


def test_text_only_prompts_decode_as_the_stock_model(sdpa_model, policy):
    inputs = tiny.prompts([[5], [9]])
    out = generate(sdpa_model, policy, inputs, output_logits=True)
    assert type(out.past_key_values) is DynamicCache
    stock = sdpa_model.generate(
        **inputs,
        max_new_tokens=STEPS,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    assert torch.equal(out.sequences, stock.sequences)
    assert torch.equal(torch.stack(out.logits), torch.stack(stock.logits))
