"""Mistral 3: images of any size, 2 x 2 patches per visual token."""

from itertools import chain

import torch
from transformers import (
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    PixtralImageProcessor,
    PixtralProcessor,
    PixtralVisionConfig,
)

from tests.support import tiny
from tests.support.families.prompt import from_mask, received_by_patches, text_positions

SIZES = [(16, 24), (16, 16), (24, 16), (8, 40)]  # height and width
PATCH, MERGED = 4, 2
AROUND = ((), ())
positions, given_positions = text_positions, from_mask


def model(layers, attention="sdpa", window=None):
    """Return the model; a window holds in all of its layers."""
    vision = PixtralVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        head_dim=8,
        image_size=48,
        patch_size=PATCH,
    )
    config = Mistral3Config(
        vision_config=vision,
        text_config=MistralConfig(**tiny.text(layers), head_dim=16, sliding_window=window),
        image_token_index=tiny.IMAGE,
        spatial_merge_size=MERGED,
        tie_word_embeddings=False,
    )
    return tiny.made(Mistral3ForConditionalGeneration, config, attention)


def processor(tokenizer, template):
    return PixtralProcessor(
        PixtralImageProcessor(size={"longest_edge": 24}, patch_size=PATCH),
        tokenizer,
        patch_size=PATCH,
        spatial_merge_size=MERGED,
        image_token="<image>",
        image_break_token="<break>",
        image_end_token="<end>",
        chat_template=template,
    )


def tokens(size, alone):
    height, width = size
    return height * width // (PATCH * MERGED) ** 2


def pixels(samples, ids, generator):
    """Return the images filled up to the largest one."""
    sizes = list(chain(*samples))
    if not sizes:
        return {}
    values = torch.zeros(len(sizes), 3, *(max(sides) for sides in zip(*sizes, strict=True)))
    for picture, (height, width) in zip(values, sizes, strict=True):
        picture[:, :height, :width] = torch.randn(3, height, width, generator=generator)
    return {"pixel_values": values, "image_sizes": torch.tensor(sizes)}


def scores(model, inputs):
    return None


def features(model, inputs):
    """Return the values of each square of patches, of which one dimension follows another."""
    tower = model.model.vision_tower
    states = tower(inputs["pixel_values"], image_sizes=inputs["image_sizes"]).last_hidden_state
    # The norm before the merger divides by the root of the mean square of a patch.
    normed = states[0] * (states[0].square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    normed = normed * model.model.multi_modal_projector.norm.weight
    images = [_grid(image, size) for image, size in _images(normed, inputs)]
    found = [each.flatten(0, 1).T.flatten() for grid in images for each in _squares(grid)]
    numbers = [n for n, grid in enumerate(images) for _ in _squares(grid)]
    return torch.tensor(numbers), torch.stack(found)


def received(model, inputs):
    tower, given = model.model.vision_tower, {"image_sizes": inputs["image_sizes"]}
    (values,) = received_by_patches(tower, inputs["pixel_values"], 0, hidden=0, **given)
    images = [_grid(image, size) for image, size in _images(values, inputs)]
    return torch.stack([each.mean() for grid in images for each in _squares(grid)])


def _images(patches, inputs):
    """Yield the patches of each image and its height and width."""
    start = 0
    for height, width in inputs["image_sizes"].tolist():
        number = height * width // PATCH**2
        yield patches[start : start + number], (height, width)
        start += number


def _grid(patches, size):
    return patches.unflatten(0, tuple(side // PATCH for side in size))


def _squares(grid):
    rows, columns = (range(0, side, MERGED) for side in grid.shape[:2])
    return [grid[y : y + MERGED, x : x + MERGED] for y in rows for x in columns]
