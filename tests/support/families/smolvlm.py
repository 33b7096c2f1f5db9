"""SmolVLM: tiles of 4 x 4 patches; 2 x 2 patches merge into one visual token.

The decoder lies in `text_model`, and samples with fewer tiles are filled up with empty ones.
"""

import torch
from transformers import (
    LlamaConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

from tests.support import tiny
from tests.support.families import squares
from tests.support.families.prompt import from_mask, received_by_patches, text_positions

SIZES = [3, 1, 3, 5]  # tiles
TILE, TOKENS = 16, 4
AROUND = ((), ())
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": TILE,
    "patch_size": 4,
}
positions, given_positions = text_positions, from_mask


def model(layers, attention="sdpa"):
    config = SmolVLMConfig(
        vision_config=VISION,
        text_config=LlamaConfig(**tiny.text(layers)),
        image_token_id=tiny.IMAGE,
        scale_factor=2,
    )
    return tiny.made(SmolVLMForConditionalGeneration, config, attention)


def processor(tokenizer, template):
    sizes = {"size": {"longest_edge": 2 * TILE}, "max_image_size": {"longest_edge": TILE}}
    return SmolVLMProcessor(
        SmolVLMImageProcessor(**sizes),
        tokenizer,
        SmolVLMVideoProcessor(**sizes),
        image_seq_len=TOKENS,
        chat_template=template,
    )


def tokens(size, alone):
    return TOKENS * size


def pixels(samples, ids, generator):
    """Return the tiles of each sample, and a mask that leaves out the right of each last tile."""
    most = max(map(sum, samples))
    if not most:
        return {}
    values = torch.zeros(len(samples), most, 3, TILE, TILE)
    mask = torch.zeros(len(samples), most, TILE, TILE, dtype=torch.int64)
    for row, sizes in enumerate(samples):
        own = values[row, : sum(sizes)]
        own.copy_(torch.randn(own.shape, generator=generator))
        mask[row, : sum(sizes)] = 1
        mask[row, max(sum(sizes) - 1, 0), :, TILE // 2 :] = 0
    return {"pixel_values": values, "pixel_attention_mask": mask}


def scores(model, inputs):
    return None


def features(model, inputs):
    values, seen = tiles(inputs)
    found = model.model.vision_model(values, patch_attention_mask=seen).last_hidden_state
    return squares.joined(found, 2)


def received(model, inputs):
    values, seen = tiles(inputs)
    given = {"hidden": 0, "patch_attention_mask": seen}
    return squares.means(received_by_patches(model.model.vision_model, values, 0, **given), 2)


def tiles(inputs):
    """Return all tiles that are not empty, and masks of their patches, bool[tiles, 4, 4]."""
    mask = inputs["pixel_attention_mask"].flatten(0, 1)
    used = mask.flatten(1).any(1)
    patches = mask[used].unflatten(2, (-1, 4)).unflatten(1, (-1, 4))
    return inputs["pixel_values"].flatten(0, 1)[used], patches.bool().any(4).any(2)
