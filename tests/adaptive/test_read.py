"""Features of samples are those that a selector reads in a prefill, in every family."""

import numpy as np
import pytest

from opsearch.adaptive.features import SELECTORS, make_features
from opsearch.adaptive.read import read_features
from opsearch.data.item import Item
from opsearch.errors import PolicyError
from opsearch.models.encoding import Sample
from opsearch.models.pruned.applied import Applied
from opsearch.policy import builders
from opsearch.policy.ranker import RankerSpec
from tests.models.judge import samples as judged
from tests.models.policies import LAYERS
from tests.support.families import EACH, FAMILIES, built
from tests.support.families.prompt import prompts
from tests.support.messages import refuses

pytestmark = pytest.mark.usefixtures("no_grad", "flash_attn")


def encoded(model, inputs, number):
    (row,) = judged(model, inputs)
    item = Item(f"item {number}", "", (), ())
    return Sample(item, item.id, inputs, row.n_visual, int((~row.visual).sum()))


@pytest.mark.parametrize("name", EACH)
def test_features_are_those_of_the_prefill(name):
    model, read, selector = built(name, LAYERS), [], make_features("both")

    class Reading:
        needs = selector.needs

        def choose(self, prompt):
            read.append(selector.features(prompt))
            return [0]

    inputs = [prompts(FAMILIES[name], [[3, 4 + seed]], seed) for seed in range(3)]
    samples = [encoded(model, each, number) for number, each in enumerate(inputs)]
    policy = builders.tokens(LAYERS, "1/2", RankerSpec("uniform"))
    with Applied(model, (policy,), None, Reading()):
        for each in inputs:
            model(**each, logits_to_keep=1)
    found = read_features(model, samples, selector)
    for row, seen in zip(found, read, strict=True):
        np.testing.assert_allclose(row, seen[0].numpy(), atol=1e-6)
    assert np.abs(found[0] - found[1]).max() > 1e-3, "other questions have other features"


@pytest.mark.parametrize("name", SELECTORS)
def test_a_selector_reads_what_it_names(name):
    """Another image, or another question, has other features where the selector reads it."""
    model, selector = built("llava", LAYERS), make_features(name)
    one = prompts(FAMILIES["llava"], [[3, 4]], 0)
    image = {**one, "pixel_values": one["pixel_values"] + 1}
    question = {**one, "input_ids": one["input_ids"].clone()}
    question["input_ids"][0, -1] += 1
    samples = [encoded(model, each, number) for number, each in enumerate((one, image, question))]
    found = read_features(model, samples, selector)
    assert np.array_equal(found[0], found[1]) == (name == "question")
    assert np.array_equal(found[0], found[2]) == (name == "image")


@pytest.mark.parametrize("name", SELECTORS)
def test_other_prompts_of_a_batch_do_not_matter(name):
    model, selector = built("llava", LAYERS), make_features(name)
    inputs = [prompts(FAMILIES["llava"], [[3, 4]], seed) for seed in range(3)]
    samples = [encoded(model, each, number) for number, each in enumerate(inputs)]
    together = read_features(model, samples, selector)
    alone = np.concatenate([read_features(model, [each], selector) for each in samples])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_selectors_that_read_the_vision_tower_are_refused(monkeypatch):
    class Attention:
        needs = frozenset({"cls_attention"})

        def features(self, prompt):
            raise AssertionError

    monkeypatch.setitem(SELECTORS, "attention", Attention)
    with refuses(PolicyError, "attention", "cls_attention", "embeddings"):
        make_features("attention")
