"""GLM-4.1V: a norm behind each operation, and heads of which a part is rotated, in neighbours."""

from transformers import (
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    Glm4vImageProcessor,
    Glm4vProcessor,
    Glm4vVideoProcessor,
)

from tests.support import tiny
from tests.support.families import grids

SIZES, AROUND = grids.SIZES, grids.AROUND
VIDEO_START, VIDEO_END = 95, 96
ONE_FRAME = (grids.START, *[tiny.IMAGE] * grids.FRAME, grids.END, 9)  # a timestamp behind it
VIDEO = (VIDEO_START, *ONE_FRAME, *ONE_FRAME, VIDEO_END)
tokens, pixels = grids.tokens, grids.pixels
scores, features, received = grids.scores, grids.features, grids.received
given_positions = grids.given_positions
positions = grids.positions_of_frames
VISION = {
    "depth": 2,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_heads": 2,
    "image_size": 4 * grids.PATCH,
    "patch_size": grids.PATCH,
    "out_hidden_size": 32,
    "spatial_merge_size": grids.MERGED,
}
# An image has 4 to 36 patches; its two points in time count too.
PROCESSOR_SIZES = {
    "size": {"shortest_edge": 2 * 4 * grids.PATCH**2, "longest_edge": 2 * 36 * grids.PATCH**2},
    "patch_size": grids.PATCH,
}
IDS = {
    "image_token_id": tiny.IMAGE,
    "video_token_id": tiny.VIDEO,
    "image_start_token_id": grids.START,
    "image_end_token_id": grids.END,
    "video_start_token_id": VIDEO_START,
    "video_end_token_id": VIDEO_END,
}


def text(layers):
    """Return the settings of a decoder that rotates 6 of 8 dimensions of each head."""
    rotation = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 1]}
    return {**tiny.text(layers), "rope_parameters": rotation | {"partial_rotary_factor": 0.75}}


def model(layers, attention="sdpa"):
    config = Glm4vConfig(vision_config=VISION, text_config=text(layers), **IDS)
    return tiny.uneven_norms(tiny.made(Glm4vForConditionalGeneration, config, attention))


def processor(tokenizer, template):
    sizes = PROCESSOR_SIZES
    pictures, videos = Glm4vImageProcessor(**sizes), Glm4vVideoProcessor(**sizes)
    return Glm4vProcessor(pictures, tokenizer, videos, chat_template=template)


def video_pixels(number, ids, generator):
    """Return the inputs of videos, whose frames have the images' token; a batch has no images."""
    types = {"mm_token_type_ids": 2 * (ids == tiny.IMAGE).int()}
    return grids.video_pixels(number, ids, generator) | types
