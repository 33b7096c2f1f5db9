"""Models with the decoder of a checkpoint and random weights; nothing is downloaded.

The vision tower is a stub that never runs: prompts contain the features of their image, so that
the number of visual tokens is arbitrary and only the decoder is timed.
"""

from __future__ import annotations

from functools import partial
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from opsearch.costs.shape import Shape
from opsearch.models.families import family_for
from opsearch.timing.generation import Workload

_HEAD = 35  # tokens before the image: a usual system prompt
_MERGED = 2  # families with grids merge 2 x 2 patches into one visual token
_IMAGE = 3  # id of the placeholder of a visual token; larger ids are text
# Settings of the smallest vision tower, as far as a family's tower has them.
_STUB = {
    "depth": 1,
    "embed_dim": 8,
    "fullatt_block_indexes": [0],
    "hidden_size": 8,
    "image_size": 14,
    "intermediate_size": 8,
    "num_attention_heads": 1,
    "num_heads": 1,
    "num_hidden_layers": 1,
    "patch_size": 14,
    "spatial_merge_size": _MERGED,
}


def random_model(
    family: str, shape: Shape, dtype: torch.dtype, device: str, attention: str = "sdpa"
) -> Any:
    """Return a model of the family in evaluation mode, created directly on the device."""
    from transformers import AutoModelForImageTextToText

    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(
            random_config(family, shape), dtype=dtype, attn_implementation=attention
        )
    model.generation_config.pad_token_id = 0
    model.model.get_image_features = partial(_given_features, family_for(family).joins_features)
    return model.eval()


def random_config(family: str, shape: Shape) -> Any:
    """Return a config of the family with a decoder of this shape and the smallest vision tower."""
    from transformers import CONFIG_MAPPING

    kind: Any = CONFIG_MAPPING[family]
    defaults = kind()
    settings: dict[str, Any] = {
        "text_config": _text(shape, defaults.get_text_config(), family),
        "vision_config": _vision(shape, defaults.vision_config),
        "tie_word_embeddings": False,
    }
    known = defaults.to_dict()
    by_index = "image_token_index" in known
    settings["image_token_index" if by_index else "image_token_id"] = _IMAGE
    for video in ("video_token_id", "video_token_index"):
        if hasattr(defaults, video):
            settings[video] = _IMAGE - 1
    if "vocab_size" in known:  # repeated outside of the decoder's settings
        settings |= {"hidden_size": shape.hidden, "vocab_size": shape.vocab}
    return kind(**settings)


def random_workload(model: Any, batch: int, n_visual: int, n_other: int) -> Workload:
    """Return prompts of one image each: up to 35 tokens of text, the image, the other text."""
    text = model.config.get_text_config()
    ids = torch.randint(_IMAGE + 1, text.vocab_size, (batch, n_visual + n_other))
    head = min(_HEAD, n_other - 1)
    ids[:, head : head + n_visual] = _IMAGE
    features = torch.randn(batch, n_visual, text.hidden_size).to(model.dtype)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": features}
    family = family_for(model.config.model_type)
    if family.attends != "causal":
        of_images = family.attends == "image"
        inputs["token_type_ids"] = (ids == _IMAGE).int() if of_images else torch.zeros_like(ids)
    if family.grid:
        height = max(n for n in range(1, isqrt(n_visual) + 1) if n_visual % n == 0)
        grid = [1, _MERGED * height, _MERGED * (n_visual // height)]
        inputs["image_grid_thw"] = torch.tensor([grid] * batch)
        inputs["mm_token_type_ids"] = (ids == _IMAGE).int()
    on_device = {name: tensor.to(model.device) for name, tensor in inputs.items()}
    return Workload(on_device, batch, n_visual, n_other)


def _given_features(together: bool, pixel_values: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Replace the vision tower and projector: the "pixels" are the features."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    output: Any = pixel_values if together else tuple(pixel_values)
    found = BaseModelOutputWithPooling(pooler_output=output)
    found["deepstack_features"] = [tuple(pixel_values)]
    found["visual_indicator_features"] = pixel_values[:0]
    return found


def _vision(shape: Shape, defaults: Any) -> dict[str, Any]:
    """Return the settings of the smallest tower of a kind."""
    known = defaults.to_dict()
    tower = {name: value for name, value in _STUB.items() if name in known}
    if isinstance(known.get("image_size"), list):
        tower |= {"image_size": [28, 28], "patch_size": [14, 14]}
    if "out_hidden_size" in known:
        tower["out_hidden_size"] = shape.hidden
    if "deepstack_visual_indexes" in known:
        tower["deepstack_visual_indexes"] = [0]
    return {"model_type": known["model_type"], **tower}


def _text(shape: Shape, defaults: Any, family: str) -> dict[str, Any]:
    """Return the settings of a decoder of this shape; `defaults` are those of its kind."""
    text = {
        "model_type": defaults.model_type,
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab,
        "max_position_embeddings": 32768,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if shape.experts > 1:
        text |= {"num_experts": shape.experts, "num_experts_per_tok": shape.experts_used}
        text["moe_intermediate_size"] = shape.intermediate // shape.experts_used
    if family_for(family).grid:
        time = shape.head_dim // 8
        side = (shape.head_dim // 2 - time) // 2
        rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [time, side, side]}
        text["rope_parameters"] = {**rope, "partial_rotary_factor": 1.0}
    return text
