"""Qwen2.5-VL: images of any size, 2 x 2 patches per token, positions in time, height, width."""

from itertools import chain

import torch
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

from tests.support import tiny

# Time, height and width in patches; two sizes have the same number of tokens.
SIZES = [(1, 4, 6), (1, 4, 4), (1, 6, 4), (1, 2, 10)]
START, END = 6, 7
AROUND = ((START,), (END,))  # without them the model reads two adjacent images as one
MERGED, TOKENS_PER_SECOND = 2, 3


def model(layers, attention="sdpa", patch=4):
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
            "spatial_merge_size": MERGED,
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
        vision_start_token_id=START,
        vision_end_token_id=END,
    )
    return tiny.made(Qwen2_5_VLForConditionalGeneration, config, attention)


def processor(tokenizer, template, patch=4):
    sizes = {"min_pixels": 4 * patch**2, "max_pixels": 36 * patch**2}
    pictures = Qwen2VLImageProcessor(patch_size=patch, **sizes)
    videos = Qwen2VLVideoProcessor(patch_size=patch)
    return Qwen2_5_VLProcessor(pictures, tokenizer, videos, chat_template=template)


def tokens(size, alone):
    time, height, width = size
    return time * height * width // MERGED**2


def pixels(samples, ids, generator):
    types = {"mm_token_type_ids": (ids == tiny.IMAGE).int() + 2 * (ids == tiny.VIDEO).int()}
    if not any(samples):
        return types
    grids = torch.tensor(list(chain(*samples)))
    values = torch.randn(int(grids.prod(1).sum()), 3 * 2 * 4 * 4, generator=generator)
    return {**types, "pixel_values": values, "image_grid_thw": grids}


def scores(model, inputs):
    return None


def features(model, inputs):
    return None


def positions(inputs):
    grids = {
        tiny.IMAGE: iter(inputs.get("image_grid_thw", torch.zeros(0)).tolist()),
        tiny.VIDEO: iter(inputs.get("video_grid_thw", torch.zeros(0)).tolist()),
    }
    rows = zip(inputs["input_ids"], inputs["attention_mask"].bool(), strict=True)
    return [_positions(ids[real].tolist(), grids) for ids, real in rows]


def given_positions(inputs):
    """Return nothing: the model computes positions from mm_token_type_ids."""
    return {}


def _positions(ids, grids):
    """Return positions [3, S]; text resumes behind the longer side of an image."""
    found, place, start = [], 0, 0
    while place < len(ids):
        if ids[place] not in grids:
            found.append([start] * 3)
            place, start = place + 1, start + 1
            continue
        pace = TOKENS_PER_SECOND if ids[place] == tiny.VIDEO else 1
        time, height, width = next(grids[ids[place]])
        height, width = height // MERGED, width // MERGED
        found += [
            [start + pace * t, start + y, start + x]
            for t in range(time)
            for y in range(height)
            for x in range(width)
        ]
        place, start = place + time * height * width, start + max(height, width)
    return torch.tensor(found).T
