"""Qwen2.5-VL: images of any size, videos with larger steps in time."""

from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from tests.support import tiny
from tests.support.families import grids

SIZES, AROUND, VIDEO = grids.SIZES, grids.AROUND, grids.VIDEO
tokens, pixels, video_pixels = grids.tokens, grids.pixels, grids.video_pixels
scores, features, given_positions = grids.scores, grids.features, grids.given_positions
TOKENS_PER_SECOND = 3


def model(layers, attention="sdpa", patch=grids.PATCH):
    config = Qwen2_5_VLConfig(
        vision_config={
            "depth": 2,
            "hidden_size": 16,
            "intermediate_size": 24,
            "num_heads": 2,
            "patch_size": patch,
            "window_size": 4 * patch,
            "fullatt_block_indexes": [1],
            "out_hidden_size": 32,
            "spatial_merge_size": grids.MERGED,
            "tokens_per_second": TOKENS_PER_SECOND,
        },
        text_config={
            **tiny.text(layers),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [1, 2, 1],
            },
        },
        image_token_id=tiny.IMAGE,
        video_token_id=tiny.VIDEO,
        vision_start_token_id=grids.START,
        vision_end_token_id=grids.END,
    )
    return tiny.made(Qwen2_5_VLForConditionalGeneration, config, attention)


def processor(tokenizer, template, patch=grids.PATCH):
    sizes = {"min_pixels": 4 * patch**2, "max_pixels": 36 * patch**2}
    pictures = Qwen2VLImageProcessor(patch_size=patch, **sizes)
    videos = Qwen2VLVideoProcessor(patch_size=patch)
    return Qwen2_5_VLProcessor(pictures, tokenizer, videos, chat_template=template)


def positions(inputs):
    return grids.positions(inputs, pace=TOKENS_PER_SECOND)
