"""Shapes of the published checkpoints against their configs on the hub."""

import pytest
from transformers import (
    InternVLConfig,
    LlavaConfig,
    LlavaNextConfig,
    LlavaOnevisionConfig,
    Qwen2_5_VLConfig,
    Qwen2Config,
)

from opsearch.costs.shape import CHECKPOINTS, Shape
from opsearch.models.families import FAMILIES as SUPPORTED

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
    ),
    "llava-onevision-7b": LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **QWEN_7B, "vocab_size": 152128}
    ),
    "internvl3-8b": InternVLConfig(text_config=Qwen2Config(**QWEN_7B, vocab_size=151674)),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_shape_is_that_of_the_config(name):
    assert Shape.from_config(CONFIGS[name]) == CHECKPOINTS[name].shape
    assert CONFIGS[name].model_type == CHECKPOINTS[name].family
    assert CHECKPOINTS[name].family in SUPPORTED


def test_every_checkpoint_has_a_config():
    assert set(CONFIGS) == set(CHECKPOINTS)
