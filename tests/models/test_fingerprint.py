"""A model's fingerprint: all that its numbers depend on, and nothing that a forward leaves."""

import copy

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from opsearch.models.families import family_for
from opsearch.models.fingerprint import fingerprint
from tests.models.policies import with_rankers_of
from tests.support import tiny
from tests.support.families import EACH, FAMILIES
from tests.support.families.prompt import prompts

pytestmark = pytest.mark.usefixtures("no_grad")


@pytest.mark.parametrize("name", EACH)
def test_running_a_model_does_not_change_it(name):
    model = FAMILIES[name].model(5)
    known = fingerprint(model)
    assert fingerprint(FAMILIES[name].model(5)) == known
    inputs = prompts(FAMILIES[name], [[3, 4], [1, 6]])
    model.generate(**inputs, max_new_tokens=3)
    with with_rankers_of(family_for(name))["two at once"].apply(model):
        model.generate(**inputs, max_new_tokens=3)
    assert fingerprint(model) == known


def decoder(model):
    return model.model.language_model


def deep_inside_a_tensor(model):
    decoder(model).layers[1].mlp.up_proj.weight.data[17, 5] += 1e-6


def frequencies(model):
    decoder(model).rotary_emb.inv_freq[3] *= 1.001


def buffer_of_ones_own(model):
    model.register_buffer("scale", torch.ones(()), persistent=False)


def scale_of_attention(model):
    decoder(model).layers[2].self_attn.scaling *= 2


def number_of_the_norm(model):
    decoder(model).norm.variance_epsilon = 1e-5


def part_of_another_class(model):
    decoder(model).layers[0].mlp.up_proj = torch.nn.Identity()


def setting(model):
    model.config.text_config.rms_norm_eps = 1e-3


def dropout(model):
    model.train()


def attention(model):
    model.set_attn_implementation({"vision_config": "eager"})


def dtype(model):
    model.to(torch.bfloat16)


CHANGES = [
    deep_inside_a_tensor,
    frequencies,
    buffer_of_ones_own,
    scale_of_attention,
    number_of_the_norm,
    part_of_another_class,
    setting,
    dropout,
    attention,
    dtype,
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_change_in_memory_is_seen(change):
    model = tiny.llava()
    known = fingerprint(model)
    change(model)
    assert fingerprint(model) != known


def test_the_folder_it_came_from_does_not_count():
    model = tiny.llava()
    known = fingerprint(model)
    model.config.name_or_path = "/elsewhere"
    model.name_or_path = "/elsewhere"
    assert fingerprint(model) == known


def test_frequencies_that_follow_each_prompt_do_not_count():
    config = copy.deepcopy(tiny.llava().config)
    config.text_config.max_position_embeddings = 12
    theta = config.text_config.rope_parameters["rope_theta"]
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": theta}
    config.text_config.rope_parameters = rope
    model = tiny.made(LlavaForConditionalGeneration, config)
    known, before = fingerprint(model), decoder(model).rotary_emb.inv_freq.clone()
    model(**tiny.prompts([[3, 4]]))
    assert not torch.equal(decoder(model).rotary_emb.inv_freq, before)
    assert fingerprint(model) == known
