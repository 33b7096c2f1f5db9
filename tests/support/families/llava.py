"""LLaVA-1.5: every image is scaled to 3 x 3 patches."""

import torch
from transformers import CLIPImageProcessor, LlavaProcessor

from tests.support import tiny
from tests.support.families.prompt import (
    cls_attention,
    from_mask,
    hidden_states,
    received_by_patches,
    text_positions,
)

SIZES = [(12, 12)]
AROUND = ((), ())
positions, given_positions = text_positions, from_mask


def model(layers, attention="sdpa"):
    return tiny.llava(layers, attention)


def processor(tokenizer, template):
    pictures = CLIPImageProcessor(
        size={"height": 12, "width": 12}, crop_size={"height": 12, "width": 12}
    )
    return LlavaProcessor(
        pictures,
        tokenizer,
        patch_size=4,
        num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
        chat_template=template,
    )


def tokens(size, alone):
    return tiny.PATCHES


def pixels(samples, ids, generator):
    pictures = sum(map(len, samples))
    values = torch.randn(pictures, 3, 12, 12, generator=generator)
    return {"pixel_values": values} if pictures else {}


def features(model, inputs):
    layer = model.config.vision_feature_layer
    found = hidden_states(model.model.vision_tower, inputs["pixel_values"], layer)
    return torch.arange(len(found)).repeat_interleave(found.shape[1]), found.flatten(0, 1)


def scores(model, inputs):
    layer = model.config.vision_feature_layer
    index = layer if layer < 0 else layer - 1
    return cls_attention(model.model.vision_tower, inputs["pixel_values"], index).flatten()


def received(model, inputs):
    return received_by_patches(model.model.vision_tower, inputs["pixel_values"], 1).flatten()
