"""Features of questions are those that a selector reads in a prefill, in every family."""

import numpy as np
import pytest

from opsearch.adaptive.questions import question_features
from opsearch.data.item import Item
from opsearch.models.encoding import Sample
from opsearch.models.pruned.applied import Applied
from opsearch.policy import builders
from opsearch.policy.ranker import RankerSpec
from tests.models.judge import samples as judged
from tests.models.policies import LAYERS
from tests.support.families import EACH, FAMILIES, built
from tests.support.families.prompt import prompts

pytestmark = pytest.mark.usefixtures("no_grad", "flash_attn")


def encoded(model, inputs, number):
    (row,) = judged(model, inputs)
    item = Item(f"item {number}", "", (), ())
    return Sample(item, item.id, inputs, row.n_visual, int((~row.visual).sum()))


@pytest.mark.parametrize("name", EACH)
def test_features_are_those_of_the_prefill(name):
    model, read = built(name, LAYERS), []

    class Reading:
        needs = frozenset({"text_embeddings"})

        def choose(self, prompt):
            read.append(prompt.question_direction())
            return [0]

    inputs = [prompts(FAMILIES[name], [[3, 4 + seed]], seed) for seed in range(3)]
    samples = [encoded(model, each, number) for number, each in enumerate(inputs)]
    policy = builders.tokens(LAYERS, "1/2", RankerSpec("uniform"))
    with Applied(model, (policy,), None, Reading()):
        for each in inputs:
            model(**each, logits_to_keep=1)
    found = question_features(model, samples)
    for row, seen in zip(found, read, strict=True):
        np.testing.assert_allclose(row, seen[0].numpy(), atol=1e-6)
    assert np.abs(found[0] - found[1]).max() > 1e-3, "other questions have other features"


def test_features_do_not_depend_on_the_images():
    model = built("llava", LAYERS)
    one, other = (prompts(FAMILIES["llava"], [[3, 4]], 0) for _ in range(2))
    other = {**other, "pixel_values": other["pixel_values"] + 1}
    samples = [encoded(model, each, number) for number, each in enumerate((one, other))]
    found = question_features(model, samples)
    assert np.array_equal(found[0], found[1])
