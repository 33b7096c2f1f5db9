"""In every family the engine's values equal those of applying the policy to a sample alone."""

import numpy as np
import pytest
import torch

from opsearch.data.item import Item
from opsearch.measure.engine import Engine
from opsearch.measure.storage.store import Store
from opsearch.models.encoding import Sample, batch_inputs
from opsearch.models.families import family_for
from tests.measure.answered import alone
from tests.measure.test_engine_plan import check_planned_flops
from tests.models.judge import samples as judged
from tests.models.policies import LAYERS, with_rankers_of
from tests.support import tiny
from tests.support.families import EACH, FAMILIES, is_causal
from tests.support.families.prompt import prompts
from tests.support.flash import FLASH

pytestmark = pytest.mark.usefixtures("no_grad")

TOLERANCE = 5e-6
LABELS = ["tokens, uniform", "dop, kv leaves", "dop, kv stays", "stages", "random counts 0"]
INSIDE = [
    "fastv, of which some are updated",
    "fitprune",
    "two at once",
    "fastv, none of which are updated",
]


@pytest.fixture(params=EACH)
def name(request):
    return request.param


@pytest.fixture
def attention():
    return "sdpa"


@pytest.fixture
def model(name, attention, flash_attn):
    if attention == FLASH and not is_causal(name):
        pytest.skip("its tokens attend within a window or in both directions")
    made = FAMILIES[name].model(LAYERS, attention)
    made.generation_config.suppress_tokens = [tiny.IMAGE, tiny.VIDEO]
    return made


@pytest.fixture
def samples(name, model):
    """Return four samples; the first and third have equal token counts, often other image sizes.

    The last one repeats the first image with one more token of text.
    """
    inputs = [prompts(FAMILIES[name], [[3, 4]], seed) for seed in range(3)]
    return [encoded(model, each) for each in (*inputs, longer(inputs[0]))]


def longer(inputs):
    """Return the same prompt with one more token of text."""
    ids = inputs["input_ids"]
    more = {"input_ids": tiny.VOCAB - 1, "attention_mask": 1}
    return {
        key: torch.nn.functional.pad(value, (0, 1), value=more.get(key, 0))
        if value.shape == ids.shape
        else value
        for key, value in inputs.items()
    }


def encoded(model, inputs):
    (row,) = judged(model, inputs)
    digest = f"{inputs['pixel_values'].sum()} {inputs['input_ids'].shape}"
    return Sample(Item(digest, "", (), ()), digest, inputs, row.n_visual, int((~row.visual).sum()))


@pytest.mark.parametrize(("positions", "attention"), [(1, "sdpa"), (3, "sdpa"), (3, FLASH)])
def test_every_policy_has_the_divergence_of_applying_it(name, model, samples, positions, tmp_path):
    policies = [with_rankers_of(family_for(name))[label] for label in (*LABELS, *INSIDE)]
    with Store(tmp_path / "measurements.db", {}) as store:
        found = Engine(model, store, positions).measure(policies, samples)
    wanted = [[alone(model, policy, each, positions) for each in samples] for policy in policies]
    assert np.abs(found - wanted).max() <= TOLERANCE
    # Guard against a vacuous comparison: every policy changes the answer to every sample.
    assert np.min(wanted) > 10 * TOLERANCE


@pytest.mark.parametrize("positions", [1, 3])
def test_planned_flops_are_executed(name, model, samples, positions, tmp_path):
    # The first policy's ranker reads all that the others' do, so it runs all originals.
    labels = [LABELS[1], LABELS[0], *LABELS[2:], *INSIDE]
    policies = [with_rankers_of(family_for(name))[label] for label in labels]
    with Store(tmp_path / "measurements.db", {}) as store:
        check_planned_flops(Engine(model, store, positions), policies, samples)


def test_questions_of_different_length_share_a_picture(name, model, samples, tmp_path):
    if family_for(name).attends == "prompt":
        pytest.skip("its visual tokens attend to the question")
    policy = with_rankers_of(family_for(name))["dop, kv leaves"]
    with Store(tmp_path / "measurements.db", {}) as store:
        chunks = Engine(model, store).plan([policy], samples).chunks
    (mixed,) = (chunk for chunk in chunks if len(set(chunk.batch.tails)) > 1)
    assert {samples[0], samples[3]} <= set(mixed.samples)
    assert mixed.batch.size.images == mixed.batch.size.samples - 1


def test_samples_of_one_shape_stack(model, samples):
    """Also with different numbers of tiles or other shapes of the image grid."""
    first, _, third, _ = samples
    assert first.shape == third.shape
    together = model(**batch_inputs([first, third], "cpu")).logits
    for logits, sample in zip(together, (first, third), strict=True):
        torch.testing.assert_close(logits, model(**sample.inputs).logits[0], rtol=0, atol=1e-5)


@pytest.mark.skipif("perception_lm" not in FAMILIES, reason="its vision tower comes from timm")
def test_one_image_and_two_of_equal_tiles_of_perception_lm(tmp_path):
    """No input of the model tells the tiles of an image from padding."""
    model = FAMILIES["perception_lm"].model(LAYERS)
    samples = [encoded(model, tiled(numbers)) for numbers in ([4], [2, 2])]
    assert len({sample.shape for sample in samples}) == 1
    policies = [with_rankers_of(family_for("perception_lm"))[label] for label in LABELS]
    with Store(tmp_path / "measurements.db", {}) as store:
        found = Engine(model, store).measure(policies, samples)
    wanted = [[alone(model, policy, each, 1) for each in samples] for policy in policies]
    assert np.abs(found - wanted).max() <= TOLERANCE


def tiled(numbers):
    """Return a prompt with images of equal numbers of tiles."""
    family, generator = FAMILIES["perception_lm"], torch.Generator().manual_seed(len(numbers))
    ids = torch.tensor([[7, 8, *[tiny.IMAGE] * family.TOKENS * sum(numbers), 9, 10, 11]])
    shape = len(numbers), numbers[0], 3, family.TILE, family.TILE
    pixels = torch.randn(shape, generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}
