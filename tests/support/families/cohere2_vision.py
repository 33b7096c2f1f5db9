"""Cohere 2 Vision (Command A Vision): tower, tiles and decoder as in Aya Vision."""

from transformers import (
    Cohere2VisionConfig,
    Cohere2VisionForConditionalGeneration,
    Cohere2VisionImageProcessor,
    Cohere2VisionProcessor,
)

from tests.support import tiny
from tests.support.families import aya_vision, squares
from tests.support.families.aya_vision import (  # noqa: F401  the same functions
    AROUND,
    SIZES,
    given_positions,
    pixels,
    positions,
    received,
    scores,
    tokens,
)


def model(layers, attention="sdpa"):
    config = Cohere2VisionConfig(
        vision_config=aya_vision.vision(),
        text_config=aya_vision.text(layers),
        image_token_id=tiny.IMAGE,
        alignment_intermediate_size=48,
        tie_word_embeddings=False,
    )
    return tiny.uneven_norms(tiny.made(Cohere2VisionForConditionalGeneration, config, attention))


def processor(tokenizer, template):
    pictures = Cohere2VisionImageProcessor(
        size={"height": aya_vision.TILE, "width": aya_vision.TILE}, max_patches=4, patch_size=2
    )
    return Cohere2VisionProcessor(pictures, tokenizer, chat_template=template)


def features(model, inputs):
    found = model.model.vision_tower(inputs["pixel_values"]).last_hidden_state
    return squares.joined(found, 2)
