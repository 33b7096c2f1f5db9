"""The reference that nothing is pruned in is the stock model, for every family."""

import pytest
import torch

from tests.models.judge import TOLERANCE, samples
from tests.models.policies import LAYERS, MIXED
from tests.support import reference, tiny
from tests.support.families import ALL, built
from tests.support.families.prompt import prompts, video_prompts

pytestmark = pytest.mark.usefixtures("no_grad")

STEPS = 5
TEXT_ALONE = [[5], [9]]
VIDEOS = [[1, 4], [2, 0, 3]]
WITH_VIDEOS = [name for name, family in ALL.items() if hasattr(family, "VIDEO")]
# Each frame of a video has the token of an image there, so a batch has either images or videos.
EITHER = ("glm4v", "glm46v")

every_family = pytest.mark.parametrize("name", ALL)


def start(sample):
    """Return a sample and the counts of all its visual tokens, as the reference takes them."""
    rank = reference.rank_by(torch.zeros(sample.n_visual), sample.visual)
    counts = [[sample.n_visual] * 3] * LAYERS
    return sample.embeds, rank, counts, sample.positions


def assert_logits(model, inputs, **given):
    logits = model(**inputs, **given).logits
    for row, sample in zip(logits, samples(model, inputs), strict=True):
        wanted = reference.masked_forward(model, *start(sample), added=sample.added)
        atol = TOLERANCE * max(1.0, float(wanted.std()))
        torch.testing.assert_close(row[sample.real], wanted, rtol=0, atol=atol)


def assert_answers(model, inputs):
    options = {"output_logits": True, "return_dict_in_generate": True, "do_sample": False}
    never = [tiny.IMAGE, tiny.VIDEO]
    out = model.generate(
        **inputs, **options, max_new_tokens=STEPS, eos_token_id=10**6, suppress_tokens=never
    )
    logits = torch.stack(out.logits, 1)
    for row, sample in enumerate(samples(model, inputs)):
        answer, wanted = reference.greedy(
            model, *start(sample), STEPS, never=never, added=sample.added
        )
        assert out.sequences[row, -STEPS:].tolist() == answer
        atol = TOLERANCE * max(1.0, float(wanted.std()))
        torch.testing.assert_close(logits[row], wanted, rtol=0, atol=atol)


@every_family
@pytest.mark.parametrize("pad", ["left", "right", "none"])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_are_those_of_the_stock_model(name, pad, attention):
    """Samples have one image, two, and none."""
    inputs = prompts(ALL[name], MIXED, seed=1, pad=pad)
    assert_logits(built(name, LAYERS, attention), inputs, **ALL[name].given_positions(inputs))


@every_family
def test_logits_of_text_alone_are_those_of_the_stock_model(name):
    inputs = prompts(ALL[name], TEXT_ALONE)
    assert_logits(built(name, LAYERS), inputs, **ALL[name].given_positions(inputs))


@every_family
@pytest.mark.parametrize("layout", [MIXED, TEXT_ALONE], ids=["images", "text alone"])
def test_greedy_answers_are_those_of_generate(name, layout):
    assert_answers(built(name, LAYERS), prompts(ALL[name], layout))


@pytest.mark.parametrize("name", WITH_VIDEOS)
@pytest.mark.parametrize("picture", [False, True], ids=["videos", "images and videos"])
def test_videos_are_those_of_the_stock_model(name, picture):
    if picture and name in EITHER:
        pytest.skip("the model takes no batch with both")
    model, inputs = built(name, LAYERS), video_prompts(ALL[name], VIDEOS, picture)
    assert_logits(model, inputs, **ALL[name].given_positions(inputs))
    assert_answers(model, inputs)
