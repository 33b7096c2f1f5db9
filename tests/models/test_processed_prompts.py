"""Policies on prompts of each family's own processor, some with text inside an image."""

import pytest
import torch

from opsearch.data.item import Item
from opsearch.models.encoding import encode
from opsearch.models.families import family_for
from tests.models.judge import TOLERANCE, deviation, last_text_rows, samples
from tests.models.policies import LAYERS, with_rankers_of
from tests.models.test_family_answers import assert_answers, endless
from tests.support.families import FAMILIES, WITH_PROCESSOR, built
from tests.support.families.folder import template, tokenizer
from tests.support.pictures import picture

pytestmark = pytest.mark.usefixtures("no_grad")

# Families whose processor puts text between the tiles or the rows of an image.
SPLIT = ("aya_vision", "cohere2_vision", "idefics3", "mistral3", "ovis2", "smolvlm")
SIZES = (24, 13), (24, 24)  # width and height
LABELS = ["dop, kv stays", "fastv, of which some are updated", "random counts 0", "stages"]


def prompt(model):
    """Return a prompt with two pictures."""
    family = FAMILIES[model.config.model_type]
    processor = family.processor(tokenizer(), template(family.AROUND))
    images = tuple(picture("RGB", size, seed) for seed, size in enumerate(SIZES))
    (encoded,) = encode([Item("q1", "what is it", (), images)], processor, model.config)
    return encoded.inputs


@pytest.mark.parametrize("name", WITH_PROCESSOR)
def test_logits_are_those_of_the_reference(name):
    model, family = built(name, LAYERS), FAMILIES[name]
    inputs = prompt(model)
    (row,) = rows = samples(model, inputs)
    assert (image_parts(row.visual) > len(SIZES)) == (name in SPLIT)
    keep, given = (0, last_text_rows(model, inputs)), family.given_positions(inputs)
    policies = with_rankers_of(family_for(name))
    found = {
        label: deviation(model, inputs, policies[label], rows, keep, **given) for label in LABELS
    }
    assert {label: worst for label, worst in found.items() if worst > TOLERANCE} == {}


@pytest.mark.parametrize("name", WITH_PROCESSOR)
def test_answers_are_those_of_the_reference(name):
    model = endless(name)
    policy = with_rankers_of(family_for(name))["dop, kv leaves"]
    assert_answers(model, policy, prompt(model))


def image_parts(visual):
    """Return the number of runs of visual tokens."""
    before = torch.cat([visual.new_zeros(1), visual[:-1]])
    return int((visual & ~before).sum())
