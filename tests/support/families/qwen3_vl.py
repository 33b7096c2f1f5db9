"""Qwen3-VL: DeepStack, axes of positions that take turns, normalised queries and keys."""

from transformers import (
    Qwen2VLImageProcessor,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)

from tests.support import tiny
from tests.support.families import grids

SIZES, AROUND, FRAME = grids.SIZES, grids.AROUND, grids.FRAME
VIDEO = (9, grids.START, *[tiny.VIDEO] * FRAME, grids.END) * 2  # a timestamp before each frame
tokens, pixels, video_pixels = grids.tokens, grids.pixels, grids.video_pixels
scores, features, received = grids.scores, grids.features, grids.received
given_positions = grids.given_positions
positions = grids.positions_of_frames
VISION = {
    "depth": 3,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_heads": 2,
    "patch_size": grids.PATCH,
    "out_hidden_size": 32,
    "spatial_merge_size": grids.MERGED,
    "num_position_embeddings": 16,
    "deepstack_visual_indexes": [0, 1],
}
IDS = {
    "image_token_id": tiny.IMAGE,
    "video_token_id": tiny.VIDEO,
    "vision_start_token_id": grids.START,
    "vision_end_token_id": grids.END,
}


def text(layers):
    """Return the settings of a decoder whose heads are together wider than its states."""
    rotation = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [3, 3, 2]}
    return {**tiny.text(layers), "head_dim": 16, "rope_parameters": rotation}


def model(layers, attention="sdpa"):
    config = Qwen3VLConfig(vision_config=VISION, text_config=text(layers), **IDS)
    made = tiny.made(Qwen3VLForConditionalGeneration, config, attention)
    return tiny.uneven_norms(made)


def processor(tokenizer, template):
    patch = grids.PATCH
    sizes = {"min_pixels": 4 * patch**2, "max_pixels": 36 * patch**2}
    pictures = Qwen2VLImageProcessor(patch_size=patch, **sizes)
    videos = Qwen3VLVideoProcessor(patch_size=patch)
    return Qwen3VLProcessor(pictures, tokenizer, videos, chat_template=template)
