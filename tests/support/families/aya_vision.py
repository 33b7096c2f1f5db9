"""Aya Vision: tiles of 4 x 4 patches; 2 x 2 patches merge into one visual token.

The decoder is Cohere 2's: attention and MLP read the same norm, every second layer reads a window
of the last tokens, and the others have no positions.
"""

from itertools import chain

import torch
from transformers import (
    AyaVisionConfig,
    AyaVisionForConditionalGeneration,
    AyaVisionProcessor,
    Cohere2Config,
    GotOcr2ImageProcessor,
    SiglipVisionConfig,
)

from tests.support import tiny
from tests.support.families import squares
from tests.support.families.prompt import from_mask, received_by_patches, text_positions

SIZES = [2, 1, 2, 3]  # tiles
TILE, PATCH, TOKENS = 16, 4, 4
AROUND = ((), ())
WINDOW = 6
positions, given_positions = text_positions, from_mask


def vision():
    return SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=TILE,
        patch_size=PATCH,
        vision_use_head=False,
    )


def text(layers):
    types = tiny.alternating(layers)
    return Cohere2Config(**tiny.text(layers), sliding_window=WINDOW, layer_types=types)


def model(layers, attention="sdpa"):
    config = AyaVisionConfig(
        vision_config=vision(),
        text_config=text(layers),
        image_token_index=tiny.IMAGE,
        tie_word_embeddings=False,
    )
    return tiny.uneven_norms(tiny.made(AyaVisionForConditionalGeneration, config, attention))


def processor(tokenizer, template):
    pictures = GotOcr2ImageProcessor(size={"height": TILE, "width": TILE}, max_patches=4)
    return AyaVisionProcessor(
        pictures,
        tokenizer,
        patch_size=PATCH,
        img_size=TILE,
        downsample_factor=2,
        img_patch_token="<image>",
        image_token="<picture>",
        start_of_img_token="<start>",
        end_of_img_token="<end>",
        chat_template=template.replace("<image>", "<picture>"),
    )


def tokens(size, alone):
    return TOKENS * size


def pixels(samples, ids, generator):
    tiles = sum(chain(*samples))
    values = torch.randn(tiles, 3, TILE, TILE, generator=generator)
    return {"pixel_values": values} if tiles else {}


def scores(model, inputs):
    return None


def features(model, inputs):
    found = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True)
    return squares.joined(found.hidden_states[-1], 2)


def received(model, inputs):
    tower = model.model.vision_tower
    return squares.means(received_by_patches(tower, inputs["pixel_values"], 0, hidden=0), 2)
