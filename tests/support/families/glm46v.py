"""GLM-4.6V: GLM-4.1V's parts under another name."""

from transformers import (
    Glm46VConfig,
    Glm46VForConditionalGeneration,
    Glm46VImageProcessor,
    Glm46VProcessor,
    Glm46VVideoProcessor,
)

from tests.support import tiny
from tests.support.families import glm4v

SIZES, AROUND, VIDEO = glm4v.SIZES, glm4v.AROUND, glm4v.VIDEO
tokens, pixels, video_pixels = glm4v.tokens, glm4v.pixels, glm4v.video_pixels
scores, features, received = glm4v.scores, glm4v.features, glm4v.received
positions, given_positions = glm4v.positions, glm4v.given_positions


def model(layers, attention="sdpa"):
    config = Glm46VConfig(
        vision_config=glm4v.VISION | {"model_type": "glm4v_vision"},
        text_config=glm4v.text(layers) | {"model_type": "glm4v_text"},
        **glm4v.IDS,
    )
    return tiny.uneven_norms(tiny.made(Glm46VForConditionalGeneration, config, attention))


def processor(tokenizer, template):
    sizes = glm4v.PROCESSOR_SIZES
    pictures, videos = Glm46VImageProcessor(**sizes), Glm46VVideoProcessor(**sizes)
    return Glm46VProcessor(pictures, tokenizer, videos, chat_template=template)
