"""Every family answers as the reference, which recomputes everything for each token."""

from functools import cache

import pytest
import torch
from torch.nn.functional import pad
from transformers import GenerationMixin

from opsearch.models.families import family_for
from tests.models.judge import TOLERANCE, deviation, rank, samples
from tests.models.policies import LAYERS, MIXED, with_rankers_of
from tests.support import reference, tiny
from tests.support.families import FAMILIES, QUICK, is_causal
from tests.support.families.prompt import prompts, video_prompts
from tests.support.flash import FLASH

pytestmark = pytest.mark.usefixtures("no_grad", "flash_attn")

STEPS = 5


@cache
def endless(name, attention="sdpa"):
    """Return a model that generates all requested tokens, none of them visual."""
    model = FAMILIES[name].model(LAYERS, attention)
    model.generation_config.eos_token_id = 10**6
    model.generation_config.suppress_tokens = [tiny.IMAGE, tiny.VIDEO]
    return model


every_family_fused = pytest.mark.parametrize(
    ("name", "attention"),
    [
        pytest.param(name, attention, marks=() if name in QUICK else (pytest.mark.slow,))
        for name in FAMILIES
        for attention in ("sdpa", FLASH)
        if attention == "sdpa" or is_causal(name)
    ],
)
SOME = ["dop, kv leaves", "dop, kv stays", "tokens, uniform", "stages"]


def score(model, policy, sample, answer):
    """Return the mean log-probability of an answer's tokens by the reference."""
    embeds = torch.cat([sample.embeds, reference.decoder(model).embed_tokens(answer)])
    ranks = torch.cat([rank(sample, policy), torch.full_like(answer, reference.TEXT)])
    later = sample.positions[..., -1:] + torch.arange(1, len(answer) + 1)
    positions = torch.cat([sample.positions, later], -1)
    counts = policy.resolve(sample.n_visual).tolist()
    prompt = len(sample.embeds)
    logits = reference.masked_forward(
        model, embeds, ranks, counts, positions, prompt=prompt, added=sample.added
    )
    before = logits[-len(answer) - 1 : -1].log_softmax(-1)
    return before.gather(1, answer[:, None]).mean()


@every_family_fused
@pytest.mark.parametrize("label", SOME)
def test_generated_tokens_are_those_of_recomputing_everything(name, attention, label):
    policy = with_rankers_of(family_for(name))[label]
    assert_answers(endless(name, attention), policy, prompts(FAMILIES[name], MIXED))


def assert_answers(model, policy, inputs):
    """Check greedy tokens and their logits against the reference, which uses no cache."""
    with policy.apply(model):
        out = model.generate(
            **inputs,
            max_new_tokens=STEPS,
            do_sample=False,
            output_logits=True,
            return_dict_in_generate=True,
        )
    logits = torch.stack(out.logits, 1)
    for row, sample in enumerate(samples(model, inputs)):
        counts = policy.resolve(sample.n_visual).tolist()
        start = sample.embeds, rank(sample, policy), counts, sample.positions
        answer, wanted = reference.greedy(
            model, *start, STEPS, never=[tiny.IMAGE, tiny.VIDEO], added=sample.added
        )
        assert out.sequences[row, -STEPS:].tolist() == answer
        atol = TOLERANCE * max(1.0, float(wanted.std()))
        torch.testing.assert_close(logits[row], wanted, rtol=0, atol=atol)


OLD = not hasattr(GenerationMixin, "_expand_multimodal_outputs")


@every_family_fused
def test_beams_are_scored_as_the_reference_does(name, attention):
    if OLD and name in ("internvl", "aya_vision", "cohere2_vision"):
        pytest.skip("old transformers mixes up the tiles of pictures that have several")
    model, policy = endless(name, attention), with_rankers_of(family_for(name))["stages"]
    inputs = prompts(FAMILIES[name], [[3, 4], [1, 5]])
    options = {"num_beams": 3, "num_return_sequences": 3, "output_scores": True}
    with policy.apply(model):
        out = model.generate(
            **inputs,
            **options,
            max_new_tokens=STEPS,
            do_sample=False,
            return_dict_in_generate=True,
        )
    rows = samples(model, inputs)
    for index, answer in enumerate(out.sequences[:, -STEPS:]):
        wanted = score(model, policy, rows[index // 3], answer)
        torch.testing.assert_close(out.sequences_scores[index], wanted, rtol=0, atol=TOLERANCE)


@every_family_fused
def test_continuing_from_a_returned_cache(name, attention):
    """A second turn on the first's cache equals one prefill of both."""
    model = endless(name, attention)
    policy = with_rankers_of(family_for(name))["dop, kv leaves"]
    inputs = prompts(FAMILIES[name], [[3, 4]])
    whole = {**inputs, "input_ids": torch.cat([inputs["input_ids"], torch.tensor([[9, 8, 11]])], 1)}
    whole["attention_mask"] = torch.ones_like(whole["input_ids"])
    for types in {"mm_token_type_ids", "token_type_ids"} & inputs.keys():
        whole[types] = pad(inputs[types], (0, 3), value=family_for(name).answer_type)
    with policy.apply(model):
        wanted = model(**whole).logits[:, -3:]
        cache = model(**inputs).past_key_values
        found = model(input_ids=whole["input_ids"][:, -3:], past_key_values=cache).logits
    torch.testing.assert_close(found, wanted, rtol=0, atol=TOLERANCE)


@pytest.mark.skipif(OLD, reason="old transformers adds newline tokens behind get_video_features")
def test_videos_of_llava_onevision():
    """An image of 14 tokens, then two frames of one token each and a newline token."""
    model, family = endless("llava_onevision"), FAMILIES["llava_onevision"]
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([[9, *[tiny.IMAGE] * 14, 8, *[tiny.VIDEO] * 3, 11, 12]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    inputs |= family.pixels([[(13, 24)]], ids, generator)
    inputs["pixel_values_videos"] = torch.randn(1, 2, 3, 12, 12, generator=generator)
    for label, policy in with_rankers_of(family_for("llava_onevision")).items():
        assert deviation(model, inputs, policy) <= TOLERANCE, label


def test_videos_of_qwen2_5_vl():
    """An image, then a video of two frames with larger steps in time."""
    model, family = endless("qwen2_5_vl"), FAMILIES["qwen2_5_vl"]
    generator = torch.Generator().manual_seed(0)
    ids = torch.tensor([[9, *[tiny.IMAGE] * 4, 8, *[tiny.VIDEO] * 8, 11, 12]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    inputs |= family.pixels([[(1, 4, 4)]], ids, generator)
    inputs["pixel_values_videos"] = torch.randn(32, 96, generator=generator)
    inputs["video_grid_thw"] = torch.tensor([[2, 4, 4]])
    (row,) = samples(model, inputs)
    assert row.n_visual == 12
    assert row.positions[0, 6:14].tolist() == [4, 4, 4, 4, 7, 7, 7, 7]
    policies = with_rankers_of(family_for("qwen2_5_vl"))
    for label, policy in policies.items():
        assert deviation(model, inputs, policy, [row]) <= TOLERANCE, label
    assert_answers(model, policies["dop, kv leaves"], inputs)


@pytest.mark.parametrize("picture", [False, True], ids=["video", "picture and video"])
@pytest.mark.parametrize("name", [name for name in FAMILIES if hasattr(FAMILIES[name], "VIDEO")])
def test_videos(name, picture):
    """Frames of several sizes of the grid, alone and behind an image."""
    if picture and name.startswith("glm"):
        pytest.skip("its processor mixes no images with videos")
    model, family = endless(name), FAMILIES[name]
    inputs = video_prompts(family, [[2, 3], [1, 5]], picture)
    rows, given = samples(model, inputs), family.given_positions(inputs)
    for label in (*SOME, "random counts 0", "fastv, of which some are updated"):
        policy = with_rankers_of(RANDOM_ONLY)[label]
        assert deviation(model, inputs, policy, rows, **given) <= TOLERANCE, label


RANDOM_ONLY = family_for("qwen2_vl")  # whose tower has no [CLS] to rank by
