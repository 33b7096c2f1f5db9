"""InternVL: tiles of 4 x 4 patches; 2 x 2 patches merge into one visual token."""

from itertools import chain

import torch
from transformers import (
    GotOcr2ImageProcessor,
    InternVLConfig,
    InternVLForConditionalGeneration,
    InternVLProcessor,
    InternVLVideoProcessor,
    InternVLVisionConfig,
    Qwen2Config,
)

from tests.support import tiny
from tests.support.families import squares
from tests.support.families.prompt import (
    cls_attention,
    from_mask,
    received_by_patches,
    text_positions,
)

SIZES = [2, 1, 2, 3]  # tiles
AROUND = ((), ())
positions, given_positions = text_positions, from_mask


def model(layers, attention="sdpa"):
    vision = InternVLVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=[16, 16],
        patch_size=[4, 4],
        layer_scale_init_value=1.0,
        use_qk_norm=True,
    )
    config = InternVLConfig(
        vision_config=vision,
        text_config=Qwen2Config(**tiny.text(layers)),
        image_token_id=tiny.IMAGE,
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    made = tiny.made(InternVLForConditionalGeneration, config, attention)
    with torch.no_grad():  # with the initial zeros [CLS] attends to all patches equally
        embeddings = made.model.vision_tower.embeddings
        embeddings.cls_token.normal_()
        embeddings.position_embeddings.normal_()
    return made


def processor(tokenizer, template):
    pictures = GotOcr2ImageProcessor(size={"height": 16, "width": 16}, max_patches=4)
    return InternVLProcessor(
        pictures,
        tokenizer,
        InternVLVideoProcessor(),
        image_seq_length=4,
        chat_template=template,
    )


def tokens(size, alone):
    return 4 * size


def pixels(samples, ids, generator):
    tiles = sum(chain(*samples))
    values = torch.randn(tiles, 3, 16, 16, generator=generator)
    return {"pixel_values": values} if tiles else {}


def features(model, inputs):
    patches = model.model.vision_tower(inputs["pixel_values"]).last_hidden_state[:, 1:]
    return squares.joined(patches, 2)


def scores(model, inputs):
    return squares.means(cls_attention(model.model.vision_tower, inputs["pixel_values"], -1), 2)


def received(model, inputs):
    tower = model.model.vision_tower
    return squares.means(received_by_patches(tower, inputs["pixel_values"], 1), 2)
