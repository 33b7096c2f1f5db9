"""PaliGemma: 3 x 3 patches; the whole prompt reads itself in both directions, positions begin at 1.

The decoder is Gemma's, or with PaliGemma 2 Gemma 2's, of which every second layer reads a window.
"""

import torch
from transformers import (
    Gemma2Config,
    GemmaConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
    SiglipImageProcessor,
    SiglipVisionConfig,
)

from tests.support import tiny
from tests.support.families.prompt import from_mask, received_by_patches, text_positions

SIZES = [(12, 12)]
AROUND = ((), ())
WINDOW = 6
# Old transformers leave out the cap of the logits.
CAPPED = "_update_model_kwargs_for_generation" in vars(PaliGemmaForConditionalGeneration)


def model(layers, attention="sdpa", second=False):
    """Return PaliGemma, or PaliGemma 2, which runs with eager attention only."""
    vision = SiglipVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=12,
        patch_size=4,
        vision_use_head=False,
    )
    config = PaliGemmaConfig(
        vision_config=vision,
        text_config=gemma2(layers) if second else GemmaConfig(**tiny.text(layers), head_dim=16),
        image_token_index=tiny.IMAGE,
        projection_dim=32,
        hidden_size=32,
        tie_word_embeddings=False,
    )
    return tiny.uneven_norms(tiny.made(PaliGemmaForConditionalGeneration, config, attention))


def gemma2(layers):
    return Gemma2Config(
        **tiny.text(layers),
        head_dim=16,
        query_pre_attn_scalar=4,
        sliding_window=WINDOW,
        layer_types=tiny.alternating(layers),
        attn_logit_softcapping=2.0,
        final_logit_softcapping=3.0 if CAPPED else None,
    )


def processor(tokenizer, template):
    pictures = SiglipImageProcessor(size={"height": 12, "width": 12})
    pictures.image_seq_length = 9
    return PaliGemmaProcessor(pictures, tokenizer, chat_template=template)


def tokens(size, alone):
    return 9


def pixels(samples, ids, generator):
    types = {"token_type_ids": torch.zeros_like(ids)}
    pictures = sum(map(len, samples))
    values = torch.randn(pictures, 3, 12, 12, generator=generator)
    return {**types, "pixel_values": values} if pictures else types


def positions(inputs):
    return [1 + own for own in text_positions(inputs)]


def given_positions(inputs):
    return {"position_ids": 1 + from_mask(inputs)["position_ids"]}


def scores(model, inputs):
    return None


def features(model, inputs):
    found = model.model.vision_tower(inputs["pixel_values"]).last_hidden_state
    return torch.arange(len(found)).repeat_interleave(found.shape[1]), found.flatten(0, 1)


def received(model, inputs):
    tower = model.model.vision_tower
    return received_by_patches(tower, inputs["pixel_values"], 0, hidden=0).flatten()
