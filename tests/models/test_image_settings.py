"""Levers of the families' own processors, and the image settings that are found with them."""

from fractions import Fraction

import pytest
import torch
from PIL import Image

from opsearch.data.item import Item
from opsearch.errors import PolicyError
from opsearch.models.digests import processor_digest
from opsearch.models.encoding import batch_inputs, encode
from opsearch.models.families import family_for
from opsearch.models.image_settings import encode_at, setting_for
from opsearch.policy.images import ImageSetting
from tests.support.families import FAMILIES, WITH_PROCESSOR, built
from tests.support.families.folder import template, tokenizer
from tests.support.messages import refuses

SIZES = [(24, 13), (24, 24), (12, 24), (40, 40)]  # width and height
WITH_LEVER = [each for each in WITH_PROCESSOR if family_for(each.values[0]).lever]


@pytest.fixture(params=WITH_LEVER)
def name(request):
    return request.param


@pytest.fixture
def processor(name):
    family = FAMILIES[name]
    return family.processor(tokenizer(), template(family.AROUND))


@pytest.fixture
def samples(name, processor):
    """Questions about a picture each, the last one about none."""
    items = [
        Item(f"{number}", "what colour is it", (), (Image.effect_noise(size, 80).convert("RGB"),))
        for number, size in enumerate(SIZES)
    ]
    return encode([*items, Item("none", "how many", (), ())], processor, config(name))


def config(name):
    return built(name, 2).config


def total(setting, samples, processor, name):
    return sum(each.n_visual for each in encode_at(setting, samples, processor, config(name)))


@pytest.mark.parametrize("share", [Fraction(1, 2), Fraction(3, 10), Fraction(1, 100)], ids=str)
def test_a_setting_leaves_as_much_of_a_share_as_the_processor_can(name, processor, samples, share):
    before = processor_digest(processor)
    found = setting_for(share, samples, processor, config(name))
    lever, full = family_for(name).lever, sum(sample.n_visual for sample in samples)
    levels = [
        ImageSetting(share, lever.attributes(processor, level))
        for level in range(1, lever.most(processor))
    ]
    within = [each for each in levels if total(each, samples, processor, name) <= share * full]
    assert found == (within[-1] if within else None)
    assert processor_digest(processor) == before


def test_the_model_reads_what_the_processor_makes(name, processor, samples):
    """Also in a batch; a sample that stays as it is has no other original."""
    setting = setting_for(Fraction(9, 10), samples, processor, config(name))
    small = encode_at(setting, samples, processor, config(name))
    model = built(name, 2)
    for each, full in zip(small, samples, strict=True):
        if each is not full:
            assert each.original is full
            assert each.digest != full.digest
            assert each.content == full.content
            assert each.image_flops is None or each.image_flops <= full.image_flops
        with torch.no_grad():
            logits = model(**batch_inputs([each], "cpu")).logits
        assert torch.isfinite(logits).all()
    assert small[-1] is samples[-1]
    assert any(each is not full for each, full in zip(small, samples, strict=True))


def test_the_highest_level_is_the_processor_itself(name, processor, samples):
    lever = family_for(name).lever
    setting = ImageSetting(Fraction(1), lever.attributes(processor, lever.most(processor)))
    assert encode_at(setting, samples, processor, config(name)) == samples


def test_without_images_there_is_no_setting(name, processor, samples):
    assert setting_for(Fraction(1, 2), samples[-1:], processor, config(name)) is None


@pytest.mark.parametrize("path", ["strange", "size.strange", "size", "do_resize", "preprocess"])
def test_the_processor_of_another_family_is_refused(name, processor, path):
    setting = ImageSetting(Fraction(1, 2), ((path, 3),))
    with refuses(PolicyError, repr(path), type(processor.image_processor).__name__):
        setting.applied(processor)
