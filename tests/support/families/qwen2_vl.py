"""Qwen2-VL: images of any size, positions in time, height and width."""

from transformers import (
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
)

from tests.support import tiny
from tests.support.families import grids

SIZES, AROUND, VIDEO = grids.SIZES, grids.AROUND, grids.VIDEO
tokens, pixels, video_pixels = grids.tokens, grids.pixels, grids.video_pixels
scores, features, received = grids.scores, grids.features, grids.received
given_positions = grids.given_positions
positions = grids.positions


def model(layers, attention="sdpa"):
    config = Qwen2VLConfig(
        vision_config={
            "depth": 2,
            "embed_dim": 16,
            "hidden_size": 32,
            "mlp_ratio": 2,
            "num_heads": 2,
            "patch_size": grids.PATCH,
            "spatial_merge_size": grids.MERGED,
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
    return tiny.made(Qwen2VLForConditionalGeneration, config, attention, seed=2)


def processor(tokenizer, template):
    patch = grids.PATCH
    sizes = {"min_pixels": 4 * patch**2, "max_pixels": 36 * patch**2}
    pictures = Qwen2VLImageProcessor(patch_size=patch, **sizes)
    videos = Qwen2VLVideoProcessor(patch_size=patch)
    return Qwen2VLProcessor(pictures, tokenizer, videos, chat_template=template)
