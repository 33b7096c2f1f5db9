"""ViP-LLaVA: every image is scaled to 3 x 3 patches, and the projector reads several layers."""

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    VipLlavaConfig,
    VipLlavaForConditionalGeneration,
)

from tests.support import tiny
from tests.support.families import llava
from tests.support.families.prompt import (
    from_mask,
    hidden_states,
    received_by_patches,
    text_positions,
)

SIZES, AROUND = llava.SIZES, llava.AROUND
READ = (-2, -4, 2)  # layers
tokens, pixels, processor = llava.tokens, llava.pixels, llava.processor
positions, given_positions = text_positions, from_mask


def model(layers, attention="sdpa"):
    config = VipLlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=4,
            num_attention_heads=2,
            image_size=12,
            patch_size=4,
            projection_dim=16,
        ),
        text_config=LlamaConfig(**tiny.text(layers)),
        image_token_index=tiny.IMAGE,
        # The name of old releases, which new ones take too.
        vision_feature_layers=list(READ),
        image_seq_length=tiny.PATCHES,
    )
    return tiny.made(VipLlavaForConditionalGeneration, config, attention)


def scores(model, inputs):
    return None


def features(model, inputs):
    tower, pixels = model.model.vision_tower, inputs["pixel_values"]
    found = torch.cat([hidden_states(tower, pixels, layer) for layer in READ], -1)
    return torch.arange(len(found)).repeat_interleave(found.shape[1]), found.flatten(0, 1)


def received(model, inputs):
    return received_by_patches(model.model.vision_tower, inputs["pixel_values"], 1).flatten()
