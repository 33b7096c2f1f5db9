"""Tiny models whose towers or projectors differ from those of tests/support/families."""

import torch
from transformers import (
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PixtralVisionConfig,
)

from tests.support import tiny
from tests.support.families import smolvlm

LAYERS = 3


def made(kind, config):
    torch.manual_seed(0)
    config._attn_implementation = "eager"
    return kind(config).eval()


def llava_pixtral():
    vision = PixtralVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=40,
        patch_size=4,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=LlamaConfig(**tiny.text(LAYERS)),
        image_token_index=tiny.IMAGE,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return made(LlavaForConditionalGeneration, config)


def llava_cls():
    """Return a LLaVA whose decoder reads two layers of its tower, and their [CLS]."""
    config = tiny.llava(LAYERS).config
    config.vision_feature_layer, config.vision_feature_select_strategy = [-2, -1], "full"
    return made(LlavaForConditionalGeneration, config)


def padded_smolvlm():
    return smolvlm.model(LAYERS, "eager")


def _sized(*sizes):
    """Return visual tokens and pixels of images of any size in patches, padded to the largest."""
    high, wide = (max(each) for each in zip(*sizes, strict=True))
    values = torch.randn(len(sizes), 3, high * 4, wide * 4)
    pixels = {"pixel_values": values, "image_sizes": torch.tensor(sizes) * 4}
    return [height * width for height, width in sizes], pixels


def _alike(number, side, tokens):
    """Return visual tokens and pixels of pictures of one size."""
    return [tokens] * number, {"pixel_values": torch.randn(number, 3, side, side)}


def _padded(number, padding):
    """Return visual tokens and pixels of tiles, and of so many tiles of zeros behind them."""
    values = torch.zeros(1, number + padding, 3, smolvlm.TILE, smolvlm.TILE)
    values[0, :number].normal_()
    return [smolvlm.TOKENS] * number, {"pixel_values": values}


CASES = {
    "smolvlm-padded": (padded_smolvlm, [_padded(1, 1), _padded(3, 2)]),
    "llava-pixtral": (llava_pixtral, [_sized((3, 5)), _sized((3, 2), (2, 4))]),
    "llava-cls": (llava_cls, [_alike(1, 12, 10), _alike(2, 12, 10)]),
}
"""By name: what makes the model, and images of two samples as visual tokens of each and pixels."""
