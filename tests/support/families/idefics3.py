"""Idefics3: tiles as in SmolVLM, which descends from it."""

from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessor,
    Idefics3Processor,
    LlamaConfig,
)

from tests.support import tiny
from tests.support.families import smolvlm
from tests.support.families.smolvlm import (  # noqa: F401  the same functions
    AROUND,
    SIZES,
    features,
    given_positions,
    pixels,
    positions,
    received,
    scores,
    tokens,
)


def model(layers, attention="sdpa"):
    config = Idefics3Config(
        vision_config=smolvlm.VISION,
        text_config=LlamaConfig(**tiny.text(layers)),
        image_token_id=tiny.IMAGE,
        scale_factor=2,
    )
    return tiny.made(Idefics3ForConditionalGeneration, config, attention)


def processor(tokenizer, template):
    sizes = {
        "size": {"longest_edge": 2 * smolvlm.TILE},
        "max_image_size": {"longest_edge": smolvlm.TILE},
    }
    return Idefics3Processor(
        Idefics3ImageProcessor(**sizes),
        tokenizer,
        image_seq_len=smolvlm.TOKENS,
        chat_template=template,
    )
