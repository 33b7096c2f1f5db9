"""Shapes of the published checkpoints against their configs on the hub."""

import pytest
from transformers import (
    ChameleonConfig,
    Ernie4_5_MoeConfig,
    Gemma3Config,
    Glm4MoeConfig,
    Glm4vConfig,
    InternVLConfig,
    LlavaConfig,
    LlavaNextConfig,
    LlavaOnevisionConfig,
    Mistral3Config,
    MixtralConfig,
    Qwen2_5_VLConfig,
    Qwen2Config,
    Qwen2MoeConfig,
    Qwen2VLConfig,
    Qwen3Config,
    Qwen3VLConfig,
    SmolVLMConfig,
)

from opsearch.commands.list_parts import parts_of
from opsearch.costs.checkpoints import PREFILLS, known_image_flops
from opsearch.costs.flops import Flops
from opsearch.costs.shape import CHECKPOINTS, Shape
from opsearch.costs.tower import Tower
from opsearch.errors import ModelError
from opsearch.models.families import FAMILIES as SUPPORTED
from tests.support.messages import refuses

VICUNA_13B = {
    "model_type": "llama",
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "num_key_value_heads": 40,
    "vocab_size": 32064,
}
QWEN_7B = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
}
# LLaVA's configs omit Llama's defaults; Qwen's have no text_config.
CONFIGS = {
    "llava-1.5-7b": LlavaConfig(text_config={"model_type": "llama", "vocab_size": 32064}),
    "llava-1.5-13b": LlavaConfig(text_config=VICUNA_13B),
    "llava-next-7b": LlavaNextConfig(text_config={"model_type": "llama", "vocab_size": 32064}),
    "llava-next-13b": LlavaNextConfig(text_config=VICUNA_13B),
    "qwen2.5-vl-7b": Qwen2_5_VLConfig(
        **QWEN_7B,
        vocab_size=152064,
        rope_scaling={"type": "mrope", "mrope_section": [16, 24, 24]},
        vision_config={"hidden_size": 1280},
    ),
    "llava-onevision-7b": LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **QWEN_7B, "vocab_size": 152128}
    ),
    "internvl3-8b": InternVLConfig(text_config=Qwen2Config(**QWEN_7B, vocab_size=151674)),
}


QWEN3_8B = {
    "hidden_size": 4096,
    "intermediate_size": 12288,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
}
SIGLIP = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "patch_size": 14,
}
GEMMA_SIGLIP = {**SIGLIP, "image_size": 896, "vision_use_head": False}


def gemma(layers, hidden, heads):
    decoder = {
        "num_hidden_layers": layers,
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
    }
    return Gemma3Config(text_config=decoder, vision_config=GEMMA_SIGLIP)


# Numbers that the configs on the hub give; GLM's and Mistral's are the defaults.
CONFIGS |= {
    "qwen2-vl-7b": Qwen2VLConfig(
        text_config={**QWEN_7B, "vocab_size": 152064}, vision_config={"hidden_size": 3584}
    ),
    "qwen3-vl-4b": Qwen3VLConfig(
        text_config={**QWEN3_8B, "hidden_size": 2560, "intermediate_size": 9728},
        vision_config={
            "depth": 24,
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "out_hidden_size": 2560,
            "deepstack_visual_indexes": [5, 11, 17],
        },
    ),
    "qwen3-vl-8b": Qwen3VLConfig(text_config=QWEN3_8B, vision_config={"out_hidden_size": 4096}),
    "internvl3.5-8b": InternVLConfig(text_config=Qwen3Config(**QWEN3_8B)),
    "smolvlm2-2.2b": SmolVLMConfig(
        text_config={
            "model_type": "llama",
            "hidden_size": 2048,
            "intermediate_size": 8192,
            "num_hidden_layers": 24,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "head_dim": 64,
            "vocab_size": 49280,
        },
        vision_config={**SIGLIP, "image_size": 384},
        scale_factor=3,
    ),
    "gemma-3-4b": gemma(34, 2560, 8),
    "gemma-3-12b": gemma(48, 3840, 16),
    "mistral-small-3.1-24b": Mistral3Config(),
    "glm-4.1v-9b": Glm4vConfig(),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_shape_is_that_of_the_config(name):
    assert Shape.from_config(CONFIGS[name]) == CHECKPOINTS[name].shape
    assert CONFIGS[name].model_type == CHECKPOINTS[name].family
    assert CHECKPOINTS[name].family in SUPPORTED


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (Qwen2MoeConfig, "shared_expert_intermediate_size"),
        (Glm4MoeConfig, "n_shared_experts"),
        (Ernie4_5_MoeConfig, "moe_num_shared_experts"),
        (MixtralConfig, "width"),
    ],
)
def test_experts_whose_cost_is_not_known_are_refused(kind, name):
    with refuses(ModelError, f"'{kind.model_type}'", name, "Qwen3-VL-MoE"):
        Shape.from_config(kind())


def test_every_checkpoint_has_a_config_and_a_prefill():
    assert set(CONFIGS) == set(CHECKPOINTS) == set(PREFILLS)


@pytest.mark.parametrize("name", PREFILLS)
def test_a_known_prefill_is_that_of_its_config(name):
    known, config = PREFILLS[name], CONFIGS[name]
    assert known.tower == Tower.from_config(config)
    assert known.shape == Shape.from_config(config)


def test_a_tower_that_is_not_described_is_not_known():
    """SigLIP has a pooling head by default, in old transformers without a value in the config."""
    headless = {**SIGLIP, "model_type": "siglip_vision_model", "vision_use_head": False}
    assert Tower.from_config(LlavaConfig(vision_config=headless)) is not None
    with_head = {**SIGLIP, "model_type": "siglip_vision_model"}
    assert Tower.from_config(LlavaConfig(vision_config=with_head)) is None
    assert Tower.from_config(LlavaConfig(vision_config={"model_type": "dinov2"})) is None
    assert Tower.from_config(ChameleonConfig()) is None  # it has no vision_config


@pytest.mark.parametrize("name", PREFILLS)
def test_the_pictures_of_a_known_prefill_become_its_visual_tokens(name):
    known = PREFILLS[name]
    made = sum(n * (h // known.tower.merge) * (w // known.tower.merge) for n, h, w in known.grids)
    newlines = 81 if known.hub_id == CHECKPOINTS["llava-onevision-7b"].hub_id else 0
    assert made + newlines == known.visual_tokens


def test_images_of_a_checkpoint_are_found_by_its_hub_id():
    for name, checkpoint in CHECKPOINTS.items():
        assert known_image_flops(checkpoint.hub_id) == PREFILLS[name].size.image_flops
    assert known_image_flops("nobody/none") is None


def test_the_list_of_models_shows_floors_and_the_tower():
    found = parts_of("models")["models"]
    for known in PREFILLS.values():
        text = found[known.hub_id]
        for share in (known.text_only_floor, known.whole_floor, known.tower_share):
            assert f"{100 * share:.1f}%" in text
        assert f"{known.visual_tokens} visual tokens" in text


def test_shares_of_a_known_prefill():
    known = PREFILLS["internvl3-8b"]
    tower = known.size.image_flops
    whole = tower + Flops(known.shape).stock(1280, 65)
    text = Flops(known.shape).stock(0, 65)
    assert known.tower_share == pytest.approx(tower / whole)
    assert known.whole_floor == pytest.approx((tower + text) / whole)
