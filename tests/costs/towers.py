"""Tiny models of families with other vision towers than those of tests/support/families."""

import torch
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    Glm4vConfig,
    Glm4vForConditionalGeneration,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Mistral3Config,
    Mistral3ForConditionalGeneration,
    MistralConfig,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PixtralVisionConfig,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SiglipVisionConfig,
    SmolVLMConfig,
    SmolVLMForConditionalGeneration,
)

from tests.support import tiny

START, END = 6, 7
VIT = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
}
PLACES = {
    "image_token_id": tiny.IMAGE,
    "video_token_id": tiny.VIDEO,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
}


def text(kind, **more):
    """Return a decoder of a kind, with rotary positions in three directions for kinds of Qwen."""
    return {**tiny.text(3), "model_type": kind, **more}


def rotary(section):
    parameters = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": section}
    return {"rope_parameters": parameters}


def made(kind, config):
    torch.manual_seed(0)
    config._attn_implementation = "eager"
    return kind(config).eval()


def qwen2_vl():
    vision = {"depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2, "patch_size": 4}
    config = Qwen2VLConfig(
        vision_config=vision, text_config=text("qwen2_vl_text", **rotary([1, 2, 1])), **PLACES
    )
    return made(Qwen2VLForConditionalGeneration, config)


def qwen3_vl():
    vision = {
        "depth": 3,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_heads": 2,
        "patch_size": 4,
        "out_hidden_size": 32,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 1],
    }
    decoder = text("qwen3_vl_text", head_dim=8, **rotary([2, 1, 1]))
    config = Qwen3VLConfig(vision_config=vision, text_config=decoder, **PLACES)
    return made(Qwen3VLForConditionalGeneration, config)


def glm4v():
    vision = {
        "depth": 2,
        "hidden_size": 16,
        "intermediate_size": 40,
        "num_heads": 2,
        "image_size": 16,
        "patch_size": 4,
        "out_hidden_size": 32,
    }
    decoder = text("glm4v_text", **rotary([2, 1, 1]))
    named = {"image_start_token_id": START, "image_end_token_id": END}
    ids = {"image_token_id": tiny.IMAGE, "video_token_id": tiny.VIDEO}
    config = Glm4vConfig(vision_config=vision, text_config=decoder, **ids, **named)
    return made(Glm4vForConditionalGeneration, config)


def gemma3():
    vision = SiglipVisionConfig(**VIT, image_size=16, patch_size=4, vision_use_head=False)
    decoder = Gemma3TextConfig(**tiny.text(3), head_dim=8, sliding_window=4)
    config = Gemma3Config(
        vision_config=vision,
        text_config=decoder,
        mm_tokens_per_image=4,
        image_token_index=tiny.IMAGE,
        boi_token_index=START,
        eoi_token_index=END,
    )
    return made(Gemma3ForConditionalGeneration, config)


def paligemma():
    vision = SiglipVisionConfig(
        **VIT, image_size=8, patch_size=4, vision_use_head=False, projection_dim=32
    )
    config = PaliGemmaConfig(
        vision_config=vision,
        text_config=text("gemma", head_dim=8),
        image_token_index=tiny.IMAGE,
        projection_dim=32,
    )
    return made(PaliGemmaForConditionalGeneration, config)


def smolvlm():
    config = SmolVLMConfig(
        vision_config={**VIT, "image_size": 16, "patch_size": 4},
        text_config=text("llama"),
        scale_factor=2,
        image_token_id=tiny.IMAGE,
    )
    return made(SmolVLMForConditionalGeneration, config)


def pixtral():
    return PixtralVisionConfig(**VIT, image_size=40, patch_size=4)


def mistral3():
    config = Mistral3Config(
        vision_config=pixtral(),
        text_config=MistralConfig(**tiny.text(3), head_dim=8, sliding_window=None),
        image_token_index=tiny.IMAGE,
        spatial_merge_size=2,
    )
    return made(Mistral3ForConditionalGeneration, config)


def llava_pixtral():
    config = LlavaConfig(
        vision_config=pixtral(),
        text_config=LlamaConfig(**tiny.text(3)),
        image_token_index=tiny.IMAGE,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    return made(LlavaForConditionalGeneration, config)


def llava_cls():
    """Return a LLaVA whose decoder reads two layers of its tower, and their [CLS]."""
    config = tiny.llava(3).config
    config.vision_feature_layer, config.vision_feature_select_strategy = [-2, -1], "full"
    return made(LlavaForConditionalGeneration, config)


def _grids(*grids):
    """Return inputs and visual tokens of images of Qwen-VL and its like."""

    def inputs(ids):
        values = torch.randn(sum(t * h * w for t, h, w in grids), 3 * 2 * 4 * 4)
        types = (ids == tiny.IMAGE).int()
        given = {"pixel_values": values, "image_grid_thw": torch.tensor(grids)}
        return {**given, "mm_token_type_ids": types}

    return [t * h * w // 4 for t, h, w in grids], inputs


def _sized(side, patch, *sizes):
    """Return inputs and visual tokens of images of any size, padded to the largest."""
    high, wide = (max(each) for each in zip(*sizes, strict=True))

    def inputs(ids):
        values = torch.randn(len(sizes), 3, high * patch, wide * patch)
        return {"pixel_values": values, "image_sizes": torch.tensor(sizes) * patch}

    return [(h // side) * (w // side) for h, w in sizes], inputs


def _squares(number, side, tokens, padding=None):
    """Return inputs and visual tokens of pictures of one size; padding: pictures of zeros."""

    def inputs(ids):
        values = torch.randn(number, 3, side, side)
        if padding is None:
            extra = {"token_type_ids": (ids == tiny.IMAGE).long()}
            return {"pixel_values": values, **extra}
        zeros = torch.zeros(padding, 3, side, side)
        return {"pixel_values": torch.cat([values, zeros])[None]}

    return [tokens] * number, inputs


def _plain(number, side, tokens):
    found, inputs = _squares(number, side, tokens)
    return found, lambda ids: {"pixel_values": inputs(ids)["pixel_values"]}


CASES = {
    "qwen2_vl": (qwen2_vl, [_grids((1, 4, 6)), _grids((1, 4, 4), (1, 2, 10))]),
    "qwen3_vl": (qwen3_vl, [_grids((1, 4, 6)), _grids((1, 4, 4), (1, 2, 10))]),
    "glm4v": (glm4v, [_grids((1, 4, 6)), _grids((1, 4, 4), (1, 2, 8))]),
    "gemma3": (gemma3, [_squares(1, 16, 4), _squares(2, 16, 4)]),
    "paligemma": (paligemma, [_squares(1, 8, 4), _squares(2, 8, 4)]),
    "smolvlm": (smolvlm, [_squares(1, 16, 4, 0), _squares(3, 16, 4, 2)]),
    "mistral3": (mistral3, [_sized(2, 4, (4, 6)), _sized(2, 4, (4, 4), (2, 8))]),
    "llava-pixtral": (llava_pixtral, [_sized(1, 4, (3, 5)), _sized(1, 4, (3, 2), (2, 4))]),
    "llava-cls": (llava_cls, [_plain(1, 12, 10), _plain(2, 12, 10)]),
}
"""By name: what makes the model, and images of a sample as visual tokens of each and inputs."""
