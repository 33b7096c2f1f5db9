"""Without pruning, the reference gives the logits and answers of every family's original model."""

from functools import partial
from itertools import product

import pytest
import torch

from tests.models.judge import TOLERANCE, samples
from tests.models.policies import LAYERS, MIXED
from tests.support import reference, tiny
from tests.support.families import FAMILIES, built, mistral3, paligemma
from tests.support.families.prompt import prompts, video_prompts

pytestmark = pytest.mark.usefixtures("no_grad")

STEPS = 6
every_setting = pytest.mark.parametrize(
    ("name", "attention"), list(product(FAMILIES, ("sdpa", "eager")))
)

VIDEOS = [[1, 4], [2, 0, 3]]
WITH_VIDEOS = [name for name, family in FAMILIES.items() if hasattr(family, "VIDEO")]
# Each frame of a video has the token of an image there, so a batch has either images or videos.
EITHER = ("glm4v", "glm46v")

VARIANTS = {
    "Mistral 3 with a window": partial(mistral3.model, LAYERS, window=6),
    "PaliGemma 2": partial(paligemma.model, LAYERS, "eager", second=True),
}


def unpruned(sample):
    """Return the reference's arguments for a sample of which nothing is pruned."""
    ranks = reference.rank_by(torch.zeros(sample.n_visual), sample.visual)
    return sample.embeds, ranks, [[sample.n_visual] * 3] * LAYERS, sample.positions


def assert_equal(found, wanted):
    """Check that logits differ by at most the tolerance relative to their spread."""
    atol = TOLERANCE * max(1.0, float(wanted.std()))
    torch.testing.assert_close(found, wanted, rtol=0, atol=atol)


def assert_logits(model, inputs):
    """Compare the logits of all of a batch's tokens."""
    given = FAMILIES[model.config.model_type].given_positions(inputs)
    logits = model(**inputs, **given).logits
    for row, sample in enumerate(samples(model, inputs)):
        wanted = reference.masked_forward(model, *unpruned(sample), added=sample.added)
        assert_equal(logits[row][sample.real], wanted)


def assert_answers(model, inputs):
    """Compare greedily chosen tokens, none of them visual, and their logits."""
    never = [tiny.IMAGE, tiny.VIDEO]
    out = model.generate(
        **inputs,
        max_new_tokens=STEPS,
        do_sample=False,
        eos_token_id=10**6,
        suppress_tokens=never,
        output_logits=True,
        return_dict_in_generate=True,
    )
    logits = torch.stack(out.logits, 1)
    for row, sample in enumerate(samples(model, inputs)):
        answer, wanted = reference.greedy(
            model, *unpruned(sample), STEPS, never=never, added=sample.added
        )
        assert out.sequences[row, -STEPS:].tolist() == answer
        assert_equal(logits[row], wanted)


@every_setting
@pytest.mark.parametrize("layout", [MIXED, [[6]]], ids=["images", "text"])
@pytest.mark.parametrize("pad", ["left", "right", "none"])
def test_logits_are_those_of_the_original_model(name, attention, pad, layout):
    model = built(name, LAYERS, attention)
    assert_logits(model, prompts(FAMILIES[name], layout, seed=1, pad=pad))


@every_setting
@pytest.mark.parametrize("layout", [MIXED, [[4], [7]]], ids=["images", "text"])
def test_answers_are_those_of_the_original_model(name, attention, layout):
    assert_answers(built(name, LAYERS, attention), prompts(FAMILIES[name], layout))


@pytest.mark.parametrize("name", WITH_VIDEOS)
@pytest.mark.parametrize("picture", [False, True], ids=["videos", "images and videos"])
def test_videos_are_read_as_by_the_original_model(name, picture):
    if picture and name in EITHER:
        pytest.skip("the model takes no batch with both")
    model, inputs = built(name, LAYERS), video_prompts(FAMILIES[name], VIDEOS, picture)
    assert_logits(model, inputs)
    assert_answers(model, inputs)


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_of_a_family(variant):
    model = VARIANTS[variant]()
    inputs = prompts(FAMILIES[model.config.model_type], MIXED, seed=1)
    assert_logits(model, inputs)
    assert_answers(model, inputs)


def pruned_counts(n):
    """Yield counts that leave 2 of n visual tokens to one module of one layer."""
    for layer, module in product(range(LAYERS), range(3)):
        counts = [[n] * 3 for _ in range(LAYERS)]
        counts[layer][module] = 2
        yield counts


@pytest.mark.parametrize("name", FAMILIES)
def test_every_pruned_operation_is_visible(name):
    model = built(name, LAYERS)
    (sample,) = samples(model, prompts(FAMILIES[name], [[3, 4]]))
    embeds, ranks, counts, positions = unpruned(sample)
    stock = reference.masked_forward(model, embeds, ranks, counts, positions, added=sample.added)
    for pruned in pruned_counts(sample.n_visual):
        found = reference.masked_forward(
            model, embeds, ranks, pruned, positions, added=sample.added
        )
        assert (found - stock).abs().max() > 1000 * TOLERANCE * stock.std()
