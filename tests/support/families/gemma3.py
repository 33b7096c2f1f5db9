"""Gemma 3: 6 x 6 patches pooled to 3 x 3 tokens, which read each other in both directions.

Every second layer reads a window of the last tokens, with frequencies of rotation of its own.
"""

import torch
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3ImageProcessor,
    Gemma3Processor,
    Gemma3TextConfig,
    SiglipVisionConfig,
)

from tests.support import tiny
from tests.support.families import squares
from tests.support.families.prompt import from_mask, received_by_patches, text_positions

SIZES = [(24, 24)]
START, END = 6, 7
AROUND = ((START,), (END,))  # without them the model reads two adjacent images as one
WINDOW = 10  # longer than an image: within one, versions of transformers disagree
positions, given_positions = text_positions, from_mask


def model(layers, attention="sdpa"):
    vision = SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=24,
        patch_size=4,
        vision_use_head=False,
    )
    text = Gemma3TextConfig(
        **tiny.text(layers),
        head_dim=16,  # the heads are wider together than the model
        query_pre_attn_scalar=64,  # with sharper attention, rounding grows tenfold
        sliding_window=WINDOW,
        layer_types=tiny.alternating(layers),
        rope_parameters={
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    )
    config = Gemma3Config(
        vision_config=vision,
        text_config=text,
        mm_tokens_per_image=9,
        image_token_index=tiny.IMAGE,
        boi_token_index=START,
        eoi_token_index=END,
        tie_word_embeddings=False,
    )
    made = tiny.uneven_norms(tiny.made(Gemma3ForConditionalGeneration, config, attention, seed=8))
    with torch.no_grad():  # with the initial zeros all images are alike
        made.model.multi_modal_projector.mm_input_projection_weight.normal_(std=0.25)
    return made


def processor(tokenizer, template):
    """Return a processor that puts the tokens around images itself."""
    return Gemma3Processor(
        Gemma3ImageProcessor(size={"height": 24, "width": 24}),
        tokenizer,
        image_seq_length=9,
        chat_template=template.replace("<start><image><end>", "<start>"),
    )


def tokens(size, alone):
    return 9


def pixels(samples, ids, generator):
    types = {"token_type_ids": (ids == tiny.IMAGE).long()}
    pictures = sum(map(len, samples))
    values = torch.randn(pictures, 3, 24, 24, generator=generator)
    return {**types, "pixel_values": values} if pictures else types


def scores(model, inputs):
    return None


def features(model, inputs):
    found = model.model.vision_tower(inputs["pixel_values"]).last_hidden_state
    return squares.averaged(found, 2)


def received(model, inputs):
    tower = model.model.vision_tower
    return squares.means(received_by_patches(tower, inputs["pixel_values"], 0, hidden=0), 2)
