"""Rankers see the right tokens of every family, or are refused with the reason."""

import pytest
import torch
from transformers import GenerationMixin

from opsearch.errors import ModelError
from opsearch.models.families import family_for
from opsearch.policy import builders
from opsearch.policy.ranker import RankerSpec
from opsearch.rankers import RANKERS, make_ranker
from tests.models.judge import TOLERANCE, deviation, samples
from tests.models.policies import LAYERS, MIXED, every_family, has_cls
from tests.support.broken_part import broken_part
from tests.support.families import FAMILIES, QUICK, built
from tests.support.families.prompt import prompts
from tests.support.messages import refuses

pytestmark = pytest.mark.usefixtures("no_grad")

OF_CLS, OF_TOWER = ("cls", "visionzip", "vispruner"), ("mmtok", "received")


def usable():
    """Yield each family with each ranker that reads images and works there."""
    for name in FAMILIES:
        family = family_for(name)
        yield from ((name, ranker) for ranker in ("divprune", "otprune"))
        yield from ((name, ranker) for ranker in OF_TOWER if family.capture_tower)
        yield from ((name, ranker) for ranker in OF_CLS[1:] if has_cls(family))
        if family.captures_frames:
            yield name, "evs"


every_usable = pytest.mark.parametrize(
    ("name", "ranker"),
    [
        pytest.param(name, ranker, marks=() if name in QUICK else (pytest.mark.slow,))
        for name, ranker in usable()
    ],
)


@pytest.mark.parametrize("share", ["1/4", "1/2"])
@every_usable
def test_logits_are_the_references_with_the_tokens_of_the_description(name, ranker, share):
    model, family = built(name, LAYERS), FAMILIES[name]
    inputs = prompts(family, MIXED, seed=2, pad="left")
    policy = builders.tokens(LAYERS, share, RankerSpec(ranker))
    rows, given = samples(model, inputs), family.given_positions(inputs)
    assert deviation(model, inputs, policy, rows, **given) <= TOLERANCE
    by_another = builders.tokens(LAYERS, share, RankerSpec("random"))
    with policy.apply(model):
        found = model(**inputs, **given).logits
    with by_another.apply(model):
        assert (model(**inputs, **given).logits - found).abs().max() > 0.01


@pytest.mark.skipif(
    not hasattr(GenerationMixin, "_expand_multimodal_outputs"),
    reason="old transformers mixes up the images of samples that have several",
)
@every_usable
def test_beams_rank_as_their_sample_does(name, ranker):
    model, family = built(name, LAYERS), FAMILIES[name]
    # Of samples with several images, GLM-4V's own beams mix these up.
    second = [2, 6] if name.startswith("glm") else [1, 0, 6]
    inputs = prompts(family, [[3, 4], second], seed=2)
    policy = builders.tokens(LAYERS, "1/2", RankerSpec(ranker))
    settings = {"max_new_tokens": 3, "do_sample": False, "output_logits": True}
    with policy.apply(model):
        plain = model(**inputs, **family.given_positions(inputs)).logits[:, -1]
        beams = model.generate(
            **inputs, **settings, num_beams=2, return_dict_in_generate=True
        ).logits[0]
    torch.testing.assert_close(beams[::2], plain, rtol=0, atol=2e-5)
    torch.testing.assert_close(beams[1::2], plain, rtol=0, atol=2e-5)


@pytest.mark.parametrize("ranker", OF_CLS)
@pytest.mark.parametrize("name", ["qwen2_5_vl", "llava_onevision", "vipllava", "gemma3"])
def test_without_cls_the_refusal_names_rankers_that_work(name, ranker):
    policy = builders.tokens(LAYERS, "1/2", RankerSpec(ranker))
    refused = refuses(ModelError, f"'{name}'", "[CLS]", "--ranker", "otprune, random, received")
    with refused, policy.apply(built(name, LAYERS)):
        pass


@every_family
def test_what_a_config_allows_runs(name):
    """All rankers that the config allows can be captured."""
    model, family = built(name, LAYERS), family_for(name)
    names = family.rankers(model.config)
    assert ("vispruner" in names) == has_cls(family)
    assert ("received" in names) == (family.capture_tower is not None)
    assert set(names) <= set(RANKERS)
    assert "cdpruner" not in names
    for ranker in names:
        family.check_needs(model.config, make_ranker(RankerSpec(ranker)).needs)
        with builders.tokens(LAYERS, "1/2", RankerSpec(ranker)).apply(model):
            model(**prompts(FAMILIES[name], [[3, 4]]))


def test_a_broken_package_leaves_the_other_rankers_usable():
    config, family = built("llava", LAYERS).config, family_for("llava")
    with broken_part("decoder_rankers", "broken inside"):
        unsupported = family.unsupported_rankers(config)
    assert "absent_package" in unsupported["broken inside"]
    with broken_part("rankers"):
        assert "absent_package" in family.unsupported_rankers(config)["broken"]
        assert "vispruner" in family.rankers(config)
        assert "broken" not in family.rankers(config)


def test_cdpruner_asks_for_clip():
    model = built("llava", LAYERS)
    policy = builders.tokens(LAYERS, "1/2", RankerSpec("cdpruner"))
    with refuses(ModelError, "cdpruner(clip=FOLDER)", "--ranker"), policy.apply(model):
        pass
