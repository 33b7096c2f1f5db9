"""Perception LM: a thumbnail and tiles of 4 x 4 patches, pooled by 2 x 2 to one visual token each.

The vision tower is one of timm's. The model takes images of one number of tiles alone.
"""

from itertools import chain

import torch
from transformers import (
    LlamaConfig,
    PerceptionLMConfig,
    PerceptionLMForConditionalGeneration,
    PerceptionLMImageProcessor,
    PerceptionLMProcessor,
    PerceptionLMVideoProcessor,
    TimmWrapperConfig,
)

from tests.support import tiny
from tests.support.families.prompt import from_mask, text_positions

SIZES = [3]  # tiles
TILE, PATCH, POOLED, TOKENS = 16, 4, 2, 4
AROUND = ((), ())
FRAMES = 2
VIDEO = (tiny.VIDEO,) * (FRAMES * TOKENS)
positions, given_positions = text_positions, from_mask


def vision():
    """Return a Perception Encoder with a [CLS] token, which the model leaves out."""
    return TimmWrapperConfig(
        architecture="vit_pe_core_large_patch14_336",
        model_args={
            "embed_dim": 16,
            "depth": 2,
            "num_heads": 2,
            "img_size": [TILE, TILE],
            "patch_size": PATCH,
            "ref_feat_shape": [TILE // PATCH, TILE // PATCH],
            "global_pool": "",
            "init_values": 0.1,
            "use_post_transformer_norm": False,
        },
        do_pooling=False,
    )


def model(layers, attention="sdpa"):
    config = PerceptionLMConfig(
        vision_config=vision(),
        text_config=LlamaConfig(**tiny.text(layers)),
        image_token_id=tiny.IMAGE,
        video_token_id=tiny.VIDEO,
        projector_pooling_ratio=POOLED,
        tie_word_embeddings=False,
    )
    return tiny.made(PerceptionLMForConditionalGeneration, config, attention)


def processor(tokenizer, template):
    return PerceptionLMProcessor(
        PerceptionLMVideoProcessor(size={"height": TILE, "width": TILE}),
        PerceptionLMImageProcessor(tile_size=TILE, max_num_tiles=4),
        tokenizer,
        patch_size=PATCH,
        pooling_ratio=POOLED,
        chat_template=template,
    )


def tokens(size, alone):
    return TOKENS * size


def pixels(samples, ids, generator):
    sizes = list(chain(*samples))
    if not sizes:
        return {}
    shape = len(sizes), sizes[0], 3, TILE, TILE
    return {"pixel_values": torch.randn(shape, generator=generator)}


def video_pixels(number, ids, generator):
    shape = number, FRAMES, 3, TILE, TILE
    return {"pixel_values_videos": torch.randn(shape, generator=generator)}


def scores(model, inputs):
    return None


def features(model, inputs):
    return None


def received(model, inputs):
    return None
