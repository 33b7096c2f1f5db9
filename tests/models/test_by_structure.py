"""Image-text models that are not listed are pruned if they fit, and refused with the reason."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transformers import CONFIG_MAPPING, LightOnOcrConfig, LightOnOcrForConditionalGeneration

from opsearch.errors import ModelError
from opsearch.measure.engine import Engine
from opsearch.measure.storage.store import Store
from opsearch.measure.sweep.original import make_reference
from opsearch.models.decoder import Decoder
from opsearch.models.families import FAMILIES, family_for
from opsearch.models.supported import check_supported
from opsearch.policy import builders
from opsearch.policy.ranker import RankerSpec
from tests.measure.answered import alone
from tests.measure.test_engine_families import encoded
from tests.models.judge import TOLERANCE, deviation
from tests.models.policies import LAYERS, MIXED, with_rankers_of
from tests.support import families, tiny
from tests.support.families import mistral3
from tests.support.families.prompt import prompts
from tests.support.messages import refuses

pytestmark = pytest.mark.usefixtures("no_grad")

HALF = builders.tokens(LAYERS, "1/2", RankerSpec("random"))
SOME = ["dop, kv stays", "fastv, of which some are updated", "random counts 0", "stages"]


def lighton_ocr():
    """Return a tiny LightOnOCR: Mistral 3's tower before a Qwen 3 decoder."""
    vision = mistral3.model(1).config.vision_config.to_dict()
    config = LightOnOcrConfig(
        vision_config=vision,
        text_config={"model_type": "qwen3", **tiny.text(LAYERS), "head_dim": 16},
        spatial_merge_size=2,
        image_token_id=tiny.IMAGE,
        tie_word_embeddings=False,
    )
    with torch.inference_mode(mode=False):
        return tiny.made(LightOnOcrForConditionalGeneration, config)


@pytest.fixture(scope="module")
def model():
    return lighton_ocr()


def test_a_family_that_is_not_listed_is_described_by_its_class(model):
    assert "lighton_ocr" not in FAMILIES
    family = check_supported(model)
    assert (family.tested, family.decoder) == (False, "model.language_model")
    assert family_for("paddleocr_vl").positions_from == "mm_token_type_ids"
    for kind in ("bert", "no_such_model"):
        with refuses(ModelError, kind, "llava"):
            family_for(kind)


@pytest.fixture
def as_mistral3(monkeypatch):
    """Give the reference the images and positions of Mistral 3; its tower is not captured."""
    nothing = {"features": lambda *_: None, "received": lambda *_: None}
    own = SimpleNamespace(**vars(mistral3) | nothing)
    monkeypatch.setitem(families.FAMILIES, "lighton_ocr", own)


@pytest.mark.usefixtures("as_mistral3")
def test_every_policy_gives_the_logits_of_the_reference(model):
    inputs = prompts(mistral3, MIXED, seed=1)
    given = mistral3.given_positions(inputs)
    policies = with_rankers_of(family_for("lighton_ocr"))
    found = {name: deviation(model, inputs, each, **given) for name, each in policies.items()}
    assert {name: worst for name, worst in found.items() if worst > TOLERANCE} == {}


@pytest.mark.usefixtures("as_mistral3")
def test_it_is_measured_as_it_runs(model, tmp_path):
    sample = encoded(model, prompts(mistral3, [[3, 4]]))
    policies = [with_rankers_of(family_for("lighton_ocr"))[label] for label in SOME]
    with Store(tmp_path / "measurements.db", {}) as store:
        found = Engine(model, store).measure(policies, [sample])[:, 0]
    wanted = [alone(model, policy, sample) for policy in policies]
    assert max(abs(found - wanted)) <= 5e-6 < min(wanted) / 10


def unlisted(model):
    """Return the decoder as that of a family that is not tested."""
    return Decoder.of(model, replace(FAMILIES["llava"], tested=False))


def test_what_a_decoder_adds_between_its_layers_is_refused():
    model = tiny.llava(LAYERS)
    unlisted(model)
    text = model.model.language_model

    class Scaled(type(text)):
        def forward(self, inputs_embeds, **kwargs):
            return super().forward(inputs_embeds=2 * inputs_embeds, **kwargs)

    model = tiny.llava(LAYERS)
    model.model.language_model.__class__ = Scaled
    with refuses(ModelError, "Scaled", "between its layers", "docs/families.md"):
        unlisted(model)


def test_a_decoder_that_does_not_run_on_plain_rows_is_refused():
    model = tiny.llava(LAYERS)
    text = model.model.language_model

    class Asking(type(text)):
        def forward(self, inputs_embeds, **kwargs):
            raise ValueError("pixel_mask is missing")

    text.__class__ = Asking
    with refuses(ModelError, "Asking", "pixel_mask is missing", "docs/families.md"):
        unlisted(model)


def test_broken_weights_of_an_unlisted_model_are_left_to_the_measurement():
    model = tiny.llava(LAYERS)
    with torch.no_grad():
        model.model.language_model.layers[0].mlp.down_proj.weight.fill_(torch.nan)
    unlisted(model)


def test_an_argument_of_the_decoder_that_nothing_knows_is_refused(model):
    text = model.model.language_model

    class Wanting(type(text)):
        def forward(self, inputs_embeds, per_layer_inputs=None, **kwargs):
            return super().forward(inputs_embeds=inputs_embeds, **kwargs)

    stock, text.__class__ = type(text), Wanting
    try:
        with refuses(ModelError, "per_layer_inputs", "docs/families.md"):
            check_supported(model)
    finally:
        text.__class__ = stock


@pytest.mark.usefixtures("as_mistral3")
def test_logits_that_are_not_those_of_the_head_are_refused(model, monkeypatch, tmp_path):
    stock = model.lm_head.forward
    sample, calls = encoded(model, prompts(mistral3, [[3, 4]])), []

    def scaled(states):
        calls.append(states)
        return stock(states) * (0.5 if len(calls) == 1 else 1)

    monkeypatch.setattr(model.lm_head, "forward", scaled)
    with Store(tmp_path / "measurements.db", {}) as store:
        engine = Engine(model, store)
        with refuses(ModelError, "lm_head", "docs/families.md"):
            engine.measure([HALF], [sample])


def test_tokens_that_see_text_behind_an_image_are_not_measured():
    """PaliGemma's image tokens read the question, which no unlisted family may do."""
    model = families.built("paligemma", LAYERS)
    sample = encoded(model, prompts(families.FAMILIES["paligemma"], [[3, 4]]))
    assert make_reference(model, FAMILIES["paligemma"], [sample], (), 1).visibility
    unlisted_family = replace(FAMILIES["paligemma"], tested=False)
    with refuses(ModelError, "behind its images", "docs/families.md"):
        make_reference(model, unlisted_family, [sample], (), 1)


def test_tokens_of_an_image_may_see_each_other():
    model = families.built("gemma3", LAYERS)
    sample = encoded(model, prompts(families.FAMILIES["gemma3"], [[3, 4]]))
    unlisted_family = replace(FAMILIES["gemma3"], tested=False)
    assert make_reference(model, unlisted_family, [sample], (), 1).visibility


def test_a_model_without_ids_of_visual_tokens_is_refused():
    config = CONFIG_MAPPING["emu3"]()
    with refuses(ModelError, "emu3", "image_token_id", "docs/families.md"):
        family_for("emu3").visual_positions(config, torch.zeros(1, 3, dtype=torch.long))


def test_a_trunk_that_merges_images_in_another_way_is_refused(model, monkeypatch):
    monkeypatch.setattr("opsearch.models.pruned.checks._MERGERS", ("merge_images",))
    with refuses(ModelError, "merge_images", "docs/families.md"), HALF.apply(model):
        pass
