"""LLaVA-OneVision: LLaVA-NeXT's tiles for a single image, else one tile per image."""

from itertools import chain

import torch
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    Qwen2Config,
    SiglipVisionConfig,
)

from tests.support import tiny
from tests.support.families import tiles
from tests.support.families.prompt import from_mask, text_positions

SIZES = list(tiles.CUTS)
AROUND = ((), ())
positions, given_positions = text_positions, from_mask


def model(layers, attention="sdpa"):
    vision = SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=tiles.TILE,
        patch_size=tiles.PATCH,
        vision_use_head=False,
    )
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=Qwen2Config(**tiny.text(layers)),
        image_token_index=tiny.IMAGE,
        video_token_index=tiny.VIDEO,
        image_grid_pinpoints=tiles.PINPOINTS,
    )
    return tiny.made(LlavaOnevisionForConditionalGeneration, config, attention)


def processor(tokenizer, template):
    pictures = LlavaOnevisionImageProcessor(
        size={"height": tiles.TILE, "width": tiles.TILE}, image_grid_pinpoints=tiles.PINPOINTS
    )
    return LlavaOnevisionProcessor(
        pictures,
        tokenizer,
        LlavaOnevisionVideoProcessor(),
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=template,
    )


def tokens(size, alone):
    return tiles.CUTS[size].tokens if alone else 4 + 1


def pixels(samples, ids, generator):
    numbers = torch.tensor([len(sizes) for sizes in samples if sizes])
    given = tiles.pixels(list(chain(*samples)), generator)
    return {**given, "batch_num_images": numbers} if given else {}


def scores(model, inputs):
    return None


def features(model, inputs):
    return None
