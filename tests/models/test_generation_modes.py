"""Each mode of generate() answers as the reference does, or is refused with the next step.

For the reference, generate() itself runs with a forward that recomputes everything by the masked
model, without a cache.
"""

import re
from contextlib import contextmanager
from functools import cache, wraps

import pytest
import torch
from transformers import ContinuousBatchingConfig, GenerationConfig, GenerationMixin
from transformers.generation.streamers import BaseStreamer
from transformers.modeling_outputs import CausalLMOutputWithPast

from opsearch.errors import PolicyError
from opsearch.models.families import family_for
from opsearch.policy import builders
from opsearch.policy.ranker import RankerSpec
from opsearch.rankers import DECODER_RANKERS, RANKERS
from tests.models.judge import TOLERANCE, inside, rank, samples
from tests.models.policies import INSIDE, LAYERS, every_family, falling, with_rankers_of
from tests.support import reference, tiny
from tests.support.families import FAMILIES
from tests.support.families.clip import saved_clip
from tests.support.families.prompt import prompts
from tests.support.messages import naming, refuses

pytestmark = pytest.mark.usefixtures("no_grad")

OLD = not hasattr(GenerationMixin, "_expand_multimodal_outputs")
STEPS = 5
FREE, READER = "stages", "two at once"  # a ranker of images only, and rankers of the text too


@cache
def endless(name):
    """Return a model that generates all requested tokens, none of them visual."""
    model = FAMILIES[name].model(LAYERS)
    model.generation_config.eos_token_id = 10**6
    model.generation_config.suppress_tokens = [tiny.IMAGE, tiny.VIDEO]
    return model


@contextmanager
def answering_as_reference(model, policy, inputs):
    """Let the model's forward return the reference's logits of each row's last token."""
    rows = samples(model, inputs)
    embed = reference.decoder(model).embed_tokens

    def last_logits(ids, sample):
        if len(ids) < len(sample.ids):  # the unconditional prompt of classifier-free guidance
            text = torch.full_like(ids, reference.TEXT)
            counts = policy.resolve(0).tolist()
            start = embed(ids), text, counts, torch.arange(len(ids))
            return reference.masked_forward(model, *start)[-1]
        answer = ids[len(sample.ids) :]
        later = sample.positions[..., -1:] + torch.arange(1, len(answer) + 1)
        return reference.masked_forward(
            model,
            torch.cat([sample.embeds, embed(answer)]),
            torch.cat([rank(sample, policy), torch.full_like(answer, reference.TEXT)]),
            policy.resolve(sample.n_visual).tolist(),
            torch.cat([sample.positions, later], -1),
            inside(sample, policy),
            prompt=len(sample.embeds),
            added=sample.added,
        )[-1]

    @wraps(model.forward)
    def forward(input_ids=None, attention_mask=None, **others):
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        copies = len(input_ids) // len(rows)
        logits = [
            last_logits(ids[real.bool()], rows[row // copies])
            for row, (ids, real) in enumerate(zip(input_ids, mask, strict=True))
        ]
        return CausalLMOutputWithPast(logits=torch.stack(logits)[:, None])

    model.forward = forward
    try:
        yield
    finally:
        del model.forward


def generated(model, inputs, **options):
    torch.manual_seed(3)
    options = {"max_new_tokens": STEPS, "do_sample": False, **options}
    return model.generate(**inputs, **options, return_dict_in_generate=True, output_logits=True)


def pruned(model, policy, inputs, **options):
    with policy.apply(model):
        return generated(model, inputs, **options)


def policies(name):
    everything = with_rankers_of(family_for(name))
    return {label: everything[label] for label in (FREE, READER)}


def assert_same(found, wanted):
    assert torch.equal(found.sequences, wanted.sequences)
    found, wanted = torch.stack(found.logits), torch.stack(wanted.logits)
    torch.testing.assert_close(found, wanted, rtol=0, atol=2 * TOLERANCE)


def greedy_by_hand(model, input_ids, logits_processor, stopping_criteria, generation_config, **kw):
    """A caller's own loop, as `custom_generate` takes it."""
    return type(model)._sample(
        model, input_ids, logits_processor, stopping_criteria, generation_config, **kw
    )


MODES = {
    "greedy": {},
    "sampling": {"do_sample": True, "temperature": 1.5, "top_k": 20, "top_p": 0.9},
    "several samples": {"do_sample": True, "num_return_sequences": 2},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "sampled beams": {"num_beams": 2, "do_sample": True},
    "penalties": {"repetition_penalty": 1.7, "no_repeat_ngram_size": 2, "min_new_tokens": 3},
    "guidance": {"guidance_scale": 1.5},
    "a caller's loop": {"custom_generate": greedy_by_hand},
    "a chosen cache": {"cache_implementation": "dynamic"},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("label", [FREE, READER])
def test_modes_answer_as_the_reference(mode, label):
    model, policy = endless("llava"), policies("llava")[label]
    inputs = prompts(FAMILIES["llava"], [[3, 4], [1, 8]])
    found = pruned(model, policy, inputs, **MODES[mode])
    with answering_as_reference(model, policy, inputs):
        options = {**MODES[mode], "use_cache": False}
        options.pop("cache_implementation", None)
        assert_same(found, generated(model, inputs, **options))


@every_family
@pytest.mark.parametrize("mode", ["greedy", "sampling", "beams"])
def test_every_family_answers_as_the_reference(mode, name):
    if OLD and mode == "beams" and name in ("internvl", "aya_vision", "cohere2_vision"):
        pytest.skip("old transformers mixes up the tiles of pictures that have several")
    model, inputs = endless(name), prompts(FAMILIES[name], [[3, 4]])
    for policy in policies(name).values():
        found = pruned(model, policy, inputs, **MODES[mode])
        with answering_as_reference(model, policy, inputs):
            assert_same(found, generated(model, inputs, **MODES[mode], use_cache=False))


class Heard(BaseStreamer):
    """A streamer that keeps what it is given."""

    def __init__(self):
        self.tokens, self.ended = [], False

    def put(self, value):
        self.tokens += value.flatten().tolist()

    def end(self):
        self.ended = True


def test_a_streamer_hears_the_same():
    model, inputs, heard = endless("llava"), tiny.prompts([[3, 4]]), Heard()
    found = pruned(model, policies("llava")[READER], inputs, streamer=heard)
    assert heard.tokens == found.sequences[0].tolist()
    assert heard.ended


@every_family
@pytest.mark.parametrize("label", [FREE, READER])
def test_a_second_turn_keeps_the_tokens_chosen_in_the_first(name, label):
    """The answer is the reference's, ranked by the first prompt, with the turn as its answer."""
    model, policy = endless(name), policies(name)[label]
    inputs = prompts(FAMILIES[name], [[3, 4]])
    turn = torch.tensor([[11, 12, 13]])
    with policy.apply(model):
        cache = model(**inputs).past_key_values
        found = model(input_ids=turn, past_key_values=cache).logits[0]
    with answering_as_reference(model, policy, inputs):
        for step in range(1, turn.shape[1] + 1):
            ids = torch.cat([inputs["input_ids"], turn[:, :step]], 1)
            wanted = model(input_ids=ids).logits[0, 0]
            torch.testing.assert_close(found[step - 1], wanted, rtol=0, atol=2 * TOLERANCE)


# Without a cache


def ranked_by(name):
    """Return a policy by one ranker."""
    if name in DECODER_RANKERS:
        return falling(1, 1, "1/2", "1/3", rankers=[(2, name)])
    return builders.tokens(LAYERS, "1/3", RankerSpec(name))


@every_family
@pytest.mark.parametrize("ranker", [*RANKERS, *DECODER_RANKERS])
def test_without_a_cache_answers_are_the_same_or_refused(name, ranker):
    model, inputs = endless(name), prompts(FAMILIES[name], [[3, 4], [1, 9]])
    if ranker in family_for(name).unsupported_rankers(model.config):
        pytest.skip("the family cannot rank by it")
    found = pruned(model, ranked_by(ranker), inputs)
    if ranker in (*DECODER_RANKERS, "mmtok"):
        with refuses(PolicyError, ranker, "use_cache=True"):
            pruned(model, ranked_by(ranker), inputs, use_cache=False)
    else:
        assert_same(pruned(model, ranked_by(ranker), inputs, use_cache=False), found)


def test_a_ranker_that_a_refusal_is_about_is_named_once():
    model, inputs = endless("llava"), prompts(FAMILIES["llava"], [[3, 4]])
    with refuses(PolicyError, "pyramiddrop", "use_cache=True") as caught:
        pruned(model, builders.pyramiddrop(LAYERS), inputs, use_cache=False)
    assert str(caught.value).count("pyramiddrop") == 1


def test_a_ranker_that_compares_with_the_question_is_refused_without_a_cache(tmp_path):
    model, inputs = endless("llava"), tiny.prompts([[3, 4]])
    ranker = RankerSpec("cdpruner", (("clip", saved_clip(tmp_path)),))
    policy = builders.tokens(LAYERS, "1/3", ranker)
    with refuses(PolicyError, "cdpruner", "use_cache=True"):
        pruned(model, policy, inputs, use_cache=False)


@pytest.mark.parametrize("place", ["call", "config", "model"])
def test_a_cache_that_is_switched_off_anywhere_is_refused(place):
    model, policy, inputs = FAMILIES["llava"].model(LAYERS), INSIDE[READER], tiny.prompts([[3, 4]])
    given = {"use_cache": False} if place == "call" else {}
    if place == "config":
        given["generation_config"] = GenerationConfig(use_cache=False, max_new_tokens=3)
    else:
        given["max_new_tokens"] = 3
    if place == "model":
        model.generation_config.use_cache = False
    with policy.apply(model), refuses(PolicyError, "use_cache=True"):
        model.generate(**inputs, **given)


def test_without_a_cache_a_single_prefill_and_a_text_are_allowed():
    model, policy, inputs = endless("llava"), INSIDE[READER], tiny.prompts([[3, 4]])
    text = tiny.prompts([[5]])
    stock = generated(model, text)
    with policy.apply(model):
        assert torch.equal(model(**inputs, use_cache=False).logits, model(**inputs).logits)
        assert_same(generated(model, text, use_cache=False), stock)


# Refusals

REFUSED = {
    "chunks": ({"prefill_chunk_size": 14}, "prefill_chunk_size"),
    "one chunk": ({"prefill_chunk_size": 100}, "prefill_chunk_size"),
    "early exit": ({"assistant_early_exit": 2}, "assistant_early_exit"),
    "several tokens at once": ({"use_mtp": True}, "use_mtp"),
    "a drafting head": ({"speculation_type": "dflash"}, "speculation_type"),
    "contrastive search": ({"penalty_alpha": 0.6, "top_k": 4}, "penalty_alpha"),
    "DoLa": ({"dola_layers": "low"}, "dola_layers"),
    "groups of beams": ({"num_beams": 4, "num_beam_groups": 2}, "num_beam_groups"),
    "constraints": ({"num_beams": 2, "force_words_ids": [[7]]}, "force_words_ids"),
    "code of the hub": ({"custom_generate": "transformers-community/dola"}, "custom_generate"),
    "static cache": ({"cache_implementation": "static"}, "cache_implementation"),
    "offloaded cache": ({"cache_implementation": "offloaded"}, "cache_implementation"),
    "quantised cache": ({"cache_implementation": "quantized"}, "cache_implementation"),
    "paged cache": ({"cache_implementation": "paged"}, "cache_implementation"),
    "hidden states": ({"output_hidden_states": True}, "output_hidden_states"),
}


@pytest.mark.parametrize(("options", "named"), REFUSED.values(), ids=REFUSED.keys())
def test_modes_that_are_refused(options, named):
    """They would prefill a prompt in parts or more than once, or need what is not computed."""
    model, inputs = endless("llava"), tiny.prompts([[3, 4]])
    with refuses(PolicyError, named), ranked_by("random").apply(model):
        generated(model, inputs, **options)


@pytest.mark.parametrize("label", ["prompt lookup", "an assistant"])
@pytest.mark.parametrize("ranker", DECODER_RANKERS)
def test_proposals_are_refused_where_a_ranker_reads_text(label, ranker):
    """They stand at the end of the prompt when it is ranked."""
    model, inputs = endless("llava"), tiny.prompts([[3, 4]])
    lookup, assistant = {"prompt_lookup_num_tokens": 3}, {"assistant_model": tiny.llava(LAYERS)}
    options = lookup if label == "prompt lookup" else assistant
    with refuses(PolicyError, *options, ranker), ranked_by(ranker).apply(model):
        generated(model, inputs, **options)


def test_continuous_batching_is_refused():
    model = endless("llava")
    with (
        refuses(PolicyError, "continuous batching", "opsearch serve"),
        ranked_by("random").apply(model),
    ):
        model.generate_batch([[7, 8, 9]])


@pytest.mark.skipif(OLD, reason="this release batches no models with a text_config")
@torch.inference_mode(False)  # its thread has none
def test_continuous_batching_that_began_before_the_policy_is_refused(monkeypatch):
    """Its thread reports the error as that of the request."""
    from transformers.generation.continuous_batching import utils

    # The device that other tests register in this process is taken for one with graphs.
    monkeypatch.setattr(utils, "get_available_accelerator_module", lambda: None)
    model = endless("llava")
    settings = GenerationConfig(max_new_tokens=2, do_sample=False, eos_token_id=10**6)
    memory = ContinuousBatchingConfig(num_blocks=2, max_batch_tokens=32)
    with (
        model.continuous_batching_context_manager(
            settings, continuous_batching_config=memory
        ) as manager,
        ranked_by("random").apply(model),
    ):
        manager.add_request([7, 8, 9])
        answer = manager.get_result(timeout=60)
    assert re.search(naming("generate_batch", "opsearch serve"), answer.error)


def test_prompts_that_are_padded_on_the_right_are_refused():
    """transformers warns, and takes the first token from padding."""
    model, inputs = endless("llava"), tiny.prompts([[3, 4], [3, 8]], pad="right")
    with refuses(PolicyError, "padding_side='left'"), ranked_by("random").apply(model):
        generated(model, inputs)
