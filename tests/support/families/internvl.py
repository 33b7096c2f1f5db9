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
    tower, squares = model.model.vision_tower, []
    for patches in tower(inputs["pixel_values"]).last_hidden_state[:, 1:]:
        grid = patches.view(4, 4, -1)
        squares += [grid[y : y + 2, x : x + 2].flatten() for y in (0, 2) for x in (0, 2)]
    return torch.arange(len(squares)) // 4, torch.stack(squares)


def scores(model, inputs):
    return _squares(cls_attention(model.model.vision_tower, inputs["pixel_values"], -1))


def received(model, inputs):
    return _squares(received_by_patches(model.model.vision_tower, inputs["pixel_values"], 1))


def _squares(tiles):
    """Return the mean of each square of patches; tiles: [tiles, 16]."""
    found = []
    for patches in tiles:
        grid = patches.view(4, 4)
        found += [float(grid[y : y + 2, x : x + 2].mean()) for y in (0, 2) for x in (0, 2)]
    return torch.tensor(found)
