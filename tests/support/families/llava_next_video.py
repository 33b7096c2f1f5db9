"""LLaVA-NeXT-Video: LLaVA-NeXT's images, and videos whose frames are pooled to one token."""

import torch
from transformers import (
    LlamaConfig,
    LlavaNextImageProcessor,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
    LlavaNextVideoProcessor,
    LlavaNextVideoVideoProcessor,
)

from tests.support import tiny
from tests.support.families import llava_next, tiles

SIZES, AROUND = llava_next.SIZES, llava_next.AROUND
tokens, pixels = llava_next.tokens, llava_next.pixels
positions, given_positions = llava_next.positions, llava_next.given_positions
FRAMES = 5
VIDEO = (tiny.VIDEO,) * FRAMES


def model(layers, attention="sdpa"):
    config = LlavaNextVideoConfig(
        vision_config=llava_next.vision(),
        text_config=LlamaConfig(**tiny.text(layers)),
        image_token_index=tiny.IMAGE,
        video_token_index=tiny.VIDEO,
        image_grid_pinpoints=tiles.PINPOINTS,
        image_seq_length=4,
        video_seq_length=1,
    )
    return tiny.made(LlavaNextVideoForConditionalGeneration, config, attention)


def processor(tokenizer, template):
    size = {
        "size": {"shortest_edge": tiles.TILE},
        "crop_size": {"height": tiles.TILE, "width": tiles.TILE},
    }
    return LlavaNextVideoProcessor(
        LlavaNextVideoVideoProcessor(**size),
        LlavaNextImageProcessor(**size, image_grid_pinpoints=tiles.PINPOINTS),
        tokenizer,
        patch_size=tiles.PATCH,
        num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
        chat_template=template,
    )


def video_pixels(number, ids, generator):
    shape = number, FRAMES, 3, tiles.TILE, tiles.TILE
    return {"pixel_values_videos": torch.randn(shape, generator=generator)}


def scores(model, inputs):
    """Return nothing for videos: a pooled token has no [CLS] attention of its own."""
    return None if "pixel_values_videos" in inputs else llava_next.scores(model, inputs)


def features(model, inputs):
    return None if "pixel_values_videos" in inputs else llava_next.features(model, inputs)


def received(model, inputs):
    return None if "pixel_values_videos" in inputs else llava_next.received(model, inputs)
