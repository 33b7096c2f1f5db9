"""LLaVA-OneVision: LLaVA-NeXT's tiles for a single image, else one tile per image."""

from functools import partial
from itertools import chain

import torch
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionProcessor,
    LlavaOnevisionVideoProcessor,
    Qwen2Config,
    SiglipVisionConfig,
)

from tests.support import tiny
from tests.support.families import tiles
from tests.support.families.prompt import from_mask, received_by_patches, text_positions

SIZES = list(tiles.CUTS)
AROUND = ((), ())
positions, given_positions = text_positions, from_mask


def model(layers, attention="sdpa"):
    vision = SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=tiles.TILE,
        patch_size=tiles.PATCH,
        vision_use_head=False,
    )
    config = LlavaOnevisionConfig(
        vision_config=vision,
        text_config=Qwen2Config(**tiny.text(layers)),
        image_token_index=tiny.IMAGE,
        video_token_index=tiny.VIDEO,
        image_grid_pinpoints=tiles.PINPOINTS,
    )
    return tiny.made(LlavaOnevisionForConditionalGeneration, config, attention)


def processor(tokenizer, template):
    pictures = LlavaOnevisionImageProcessor(
        size={"height": tiles.TILE, "width": tiles.TILE}, image_grid_pinpoints=tiles.PINPOINTS
    )
    return LlavaOnevisionProcessor(
        pictures,
        tokenizer,
        LlavaOnevisionVideoProcessor(),
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=template,
    )


def tokens(size, alone):
    return tiles.CUTS[size].tokens if alone else 4 + 1


def pixels(samples, ids, generator):
    numbers = torch.tensor([len(sizes) for sizes in samples if sizes])
    given = tiles.pixels(list(chain(*samples)), generator)
    return {**given, "batch_num_images": numbers} if given else {}


def scores(model, inputs):
    return None


def features(model, inputs):
    tower, tile, found, first = model.model.vision_tower, [], [], 0
    for own, pack in _images(inputs):
        states = tower(own, output_hidden_states=True).hidden_states[-1]
        found.append(torch.tensor([pack(states[..., d]) for d in range(states.shape[-1])]).T)
        numbers = first + torch.arange(len(own))[:, None].expand(-1, 4)
        tile.append(torch.tensor(pack(numbers), dtype=torch.int64))
        first += len(own)
    return torch.cat(tile), torch.cat(found)


def received(model, inputs):
    tower, found = model.model.vision_tower, []
    for own, pack in _images(inputs):
        found += pack(received_by_patches(tower, own, 0, hidden=0))
    return torch.tensor(found)


def _images(inputs):
    """Yield the tiles of each image, and a function that packs values of their patches."""
    alone = [n == 1 for n in inputs["batch_num_images"].tolist() for _ in range(n)]
    sizes = inputs["image_sizes"].tolist()
    for values, size, single in zip(inputs["pixel_values"], sizes, alone, strict=True):
        if single:
            yield values[: tiles.CUTS[tuple(size)].tiles], partial(tiles.packed, size=tuple(size))
        else:
            yield values[:1], _with_newline


def _with_newline(patches):
    """Return the values of an image of one tile, and of its newline token."""
    return [*patches[0].tolist(), float(patches[0, -1])]
