"""Ovis 2: tiles of 4 x 4 patches; 2 x 2 patches choose a visual token from a visual vocabulary.

Tokens around images have embeddings in the visual table, too.
"""

from itertools import chain

import torch
from tokenizers import Tokenizer
from transformers import (
    Ovis2Config,
    Ovis2ForConditionalGeneration,
    Ovis2ImageProcessor,
    Ovis2Processor,
    Ovis2VisionConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from tests.support import tiny
from tests.support.families import squares
from tests.support.families.prompt import from_mask, received_by_patches, text_positions

SIZES = [3, 1, 3, 5]  # tiles
TILE, PATCH, TOKENS = 16, 4, 4
INDICATORS = range(tiny.VOCAB, tiny.VOCAB + 5)  # behind all tokens of texts
AROUND = ((INDICATORS[0],), (INDICATORS[4],))
positions, given_positions = text_positions, from_mask


def model(layers, attention="sdpa"):
    vision = Ovis2VisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=TILE,
        patch_size=PATCH,
        hidden_stride=2,
        vocab_size=24,
    )
    size = len(INDICATORS) + tiny.VOCAB
    config = Ovis2Config(
        vision_config=vision,
        text_config=Qwen2Config(**tiny.text(layers) | {"vocab_size": size}),
        image_token_id=tiny.IMAGE,
        visual_indicator_token_ids=list(INDICATORS),
        vocab_size=size,
        hidden_size=32,
        tie_word_embeddings=False,
    )
    return tiny.made(Ovis2ForConditionalGeneration, config, attention, seed=1)


def processor(tokenizer, template):
    pictures = Ovis2ImageProcessor(
        size={"height": TILE, "width": TILE}, crop_to_patches=True, max_patches=4
    )
    return Ovis2Processor(
        pictures, renamed(tokenizer), image_seq_length=TOKENS, chat_template=template
    )


def renamed(tokenizer):
    """Return the tokenizer with the names that the processor gives visual tokens and others."""
    words = tokenizer.backend_tokenizer.to_str().replace("<image>", "<IMG_ATOM>")
    own = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(words),
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        padding_side="left",
    )
    unused = [f"<unused{number}>" for number in range(len(own), tiny.VOCAB)]
    around = [f"<IMG_{kind}>" for kind in ("START", "GRID", "COL", "ROW", "END")]
    own.add_tokens([*unused, *around, "<image>"], special_tokens=True)
    assert own.convert_tokens_to_ids(around) == list(INDICATORS)
    return own


def tokens(size, alone):
    return TOKENS * size


def pixels(samples, ids, generator):
    tiles = sum(chain(*samples))
    values = torch.randn(tiles, 3, TILE, TILE, generator=generator)
    return {"pixel_values": values} if tiles else {}


def scores(model, inputs):
    return None


def features(model, inputs):
    patches = model.model.vision_tower.transformer(inputs["pixel_values"])[0]
    return squares.joined(patches, 2)


def received(model, inputs):
    tower = model.model.vision_tower
    return squares.means(received_by_patches(tower, inputs["pixel_values"], 0, hidden=0), 2)
