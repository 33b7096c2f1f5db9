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
scores, given_positions = grids.scores, grids.given_positions
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


def features(model, inputs):
    sizes = inputs["image_grid_thw"].tolist()
    frame, found = grids.features(model, inputs)
    return frame, found[_restored(sizes)]


def received(model, inputs):
    """Return the attention within each image, of the only layer without windows."""
    found = grids.received_in_layer(model, inputs, 1)
    return found[_restored(inputs["image_grid_thw"].tolist())]


def _restored(sizes, window=2):
    """Return where each token is in the order of windows of 2 x 2 tokens."""
    places, start = [], 0
    for time, height, width in sizes:
        rows, columns = height // grids.MERGED, width // grids.MERGED
        cells = [(t, y, x) for t in range(time) for y in range(rows) for x in range(columns)]
        by_window = sorted(cells, key=lambda c: (c[0], c[1] // window, c[2] // window, *c[1:]))
        places += [start + by_window.index(cell) for cell in cells]
        start += len(cells)
    return places


def positions(inputs):
    return grids.positions(inputs, pace=TOKENS_PER_SECOND)
