"""Mistral 3: images of any size, 2 x 2 patches per visual token."""

from itertools import chain

import torch
from transformers import (
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    PixtralImageProcessor,
    PixtralProcessor,
    PixtralVisionConfig,
)

from tests.support import tiny
from tests.support.families.prompt import from_mask, text_positions

SIZES = [(16, 24), (16, 16), (24, 16), (8, 40)]  # height and width
PATCH, MERGED = 4, 2
AROUND = ((), ())
positions, given_positions = text_positions, from_mask


def model(layers, attention="sdpa", window=None):
    """Return the model; a window holds in all of its layers."""
    vision = PixtralVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        head_dim=8,
        image_size=48,
        patch_size=PATCH,
    )
    config = Mistral3Config(
        vision_config=vision,
        text_config=MistralConfig(**tiny.text(layers), head_dim=16, sliding_window=window),
        image_token_index=tiny.IMAGE,
        spatial_merge_size=MERGED,
        tie_word_embeddings=False,
    )
    return tiny.made(Mistral3ForConditionalGeneration, config, attention)


def processor(tokenizer, template):
    return PixtralProcessor(
        PixtralImageProcessor(size={"longest_edge": 24}, patch_size=PATCH),
        tokenizer,
        patch_size=PATCH,
        spatial_merge_size=MERGED,
        image_token="<image>",
        image_break_token="<break>",
        image_end_token="<end>",
        chat_template=template,
    )


def tokens(size, alone):
    height, width = size
    return height * width // (PATCH * MERGED) ** 2


def pixels(samples, ids, generator):
    """Return the images filled up to the largest one."""
    sizes = list(chain(*samples))
    if not sizes:
        return {}
    values = torch.zeros(len(sizes), 3, *(max(sides) for sides in zip(*sizes, strict=True)))
    for picture, (height, width) in zip(values, sizes, strict=True):
        picture[:, :height, :width] = torch.randn(3, height, width, generator=generator)
    return {"pixel_values": values, "image_sizes": torch.tensor(sizes)}


def scores(model, inputs):
    return None


def features(model, inputs):
    return None


def received(model, inputs):
    return None
