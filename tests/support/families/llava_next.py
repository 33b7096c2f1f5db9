"""LLaVA-NeXT: the image's shape decides the numbers of tiles and of visual tokens."""

from itertools import chain

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessor,
    LlavaNextProcessor,
)

from tests.support import tiny
from tests.support.families import tiles
from tests.support.families.prompt import (
    cls_attention,
    from_mask,
    hidden_states,
    received_by_patches,
    text_positions,
)

SIZES = list(tiles.CUTS)
AROUND = ((), ())
positions, given_positions = text_positions, from_mask


def vision():
    return CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        image_size=tiles.TILE,
        patch_size=tiles.PATCH,
        projection_dim=16,
    )


def model(layers, attention="sdpa"):
    config = LlavaNextConfig(
        vision_config=vision(),
        text_config=LlamaConfig(**tiny.text(layers)),
        image_token_index=tiny.IMAGE,
        image_grid_pinpoints=tiles.PINPOINTS,
        image_seq_length=4,
    )
    return tiny.made(LlavaNextForConditionalGeneration, config, attention)


def processor(tokenizer, template):
    pictures = LlavaNextImageProcessor(
        size={"shortest_edge": tiles.TILE},
        crop_size={"height": tiles.TILE, "width": tiles.TILE},
        image_grid_pinpoints=tiles.PINPOINTS,
    )
    return LlavaNextProcessor(
        pictures,
        tokenizer,
        patch_size=tiles.PATCH,
        num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
        chat_template=template,
    )


def tokens(size, alone):
    return tiles.CUTS[size].tokens


def pixels(samples, ids, generator):
    return tiles.pixels(list(chain(*samples)), generator)


def features(model, inputs):
    tile, found, tower = [], [], model.model.vision_tower
    for values, size in zip(inputs["pixel_values"], inputs["image_sizes"].tolist(), strict=True):
        own = values[: tiles.CUTS[tuple(size)].tiles]
        states = hidden_states(tower, own, -2)
        columns = [tiles.packed(states[..., d], tuple(size)) for d in range(states.shape[-1])]
        found.append(torch.tensor(columns).T)
        first = 100 * len(tile)
        number = first + torch.arange(len(own))[:, None].expand(-1, 4)
        tile.append(torch.tensor(tiles.packed(number, tuple(size)), dtype=torch.int64))
    return torch.cat(tile), torch.cat(found)


def scores(model, inputs):
    return _packed(model, inputs, lambda tower, own: cls_attention(tower, own, -2))


def received(model, inputs):
    return _packed(model, inputs, lambda tower, own: received_by_patches(tower, own, 1))


def _packed(model, inputs, read):
    """Return values of all visual tokens; `read` returns those of an image's patches."""
    found = []
    for values, size in zip(inputs["pixel_values"], inputs["image_sizes"].tolist(), strict=True):
        own = values[: tiles.CUTS[tuple(size)].tiles]
        found += tiles.packed(read(model.model.vision_tower, own), tuple(size))
    return torch.tensor(found)
