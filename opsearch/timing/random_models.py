"""Models with the decoder of a checkpoint and random weights; nothing is downloaded.

The vision tower is a stub that never runs: prompts contain the features of their image, so that
the number of visual tokens is arbitrary and only the decoder is timed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from opsearch.costs.shape import Shape
from opsearch.timing.generation import Workload

_HEAD = 35  # tokens before the image: a usual system prompt
_MERGED = 2  # Qwen2.5-VL merges 2 x 2 patches into one visual token
_IMAGE = 3  # id of the placeholder of a visual token; larger ids are text


def random_model(
    family: str, shape: Shape, dtype: torch.dtype, device: str, attention: str = "sdpa"
) -> Any:
    """Return a model of the family in evaluation mode, created directly on the device."""
    from transformers import AutoModelForImageTextToText

    with torch.device(device):
        model = AutoModelForImageTextToText.from_config(
            _FAMILIES[family].config(shape), dtype=dtype, attn_implementation=attention
        )
    model.generation_config.pad_token_id = 0
    model.model.get_image_features = partial(_given_features, _FAMILIES[family].flat_features)
    return model.eval()


def random_workload(model: Any, batch: int, n_visual: int, n_other: int) -> Workload:
    """Return prompts of one image each: up to 35 tokens of text, the image, the other text."""
    text = model.config.get_text_config()
    ids = torch.randint(_IMAGE + 1, text.vocab_size, (batch, n_visual + n_other))
    head = min(_HEAD, n_other - 1)
    ids[:, head : head + n_visual] = _IMAGE
    features = torch.randn(batch, n_visual, text.hidden_size).to(model.dtype)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": features}
    if _FAMILIES[model.config.model_type].image_grid:
        height = max(n for n in range(1, isqrt(n_visual) + 1) if n_visual % n == 0)
        grid = [1, _MERGED * height, _MERGED * (n_visual // height)]
        inputs["image_grid_thw"] = torch.tensor([grid] * batch)
        inputs["mm_token_type_ids"] = (ids == _IMAGE).int()
    on_device = {name: tensor.to(model.device) for name, tensor in inputs.items()}
    return Workload(on_device, batch, n_visual, n_other)


def _given_features(flat: bool, pixel_values: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Replace the vision tower and projector: the "pixels" are the features."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    features = pixel_values.flatten(0, 1)
    output: Any = features if flat else (features,)
    return BaseModelOutputWithPooling(pooler_output=output)


def _text(shape: Shape) -> dict[str, Any]:
    return {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "head_dim": shape.head_dim,
        "vocab_size": shape.vocab,
        "max_position_embeddings": 32768,
    }


def _stub(**more: Any) -> dict[str, Any]:
    """Return the settings of the smallest vision tower."""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}
    return {**sizes, "num_attention_heads": 1, "image_size": 14, "patch_size": 14, **more}


def _llava(shape: Shape) -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    vision, text = CLIPVisionConfig(**_stub()), LlamaConfig(**_text(shape))
    return LlavaConfig(vision_config=vision, text_config=text, image_token_index=_IMAGE)


def _llava_next(shape: Shape) -> Any:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaNextConfig

    vision, text = CLIPVisionConfig(**_stub()), LlamaConfig(**_text(shape))
    return LlavaNextConfig(vision_config=vision, text_config=text, image_token_index=_IMAGE)


def _llava_onevision(shape: Shape) -> Any:
    from transformers import LlavaOnevisionConfig, Qwen2Config, SiglipVisionConfig

    vision, text = SiglipVisionConfig(**_stub()), Qwen2Config(**_text(shape))
    return LlavaOnevisionConfig(
        vision_config=vision, text_config=text, image_token_index=_IMAGE, video_token_index=2
    )


def _internvl(shape: Shape) -> Any:
    from transformers import InternVLConfig, InternVLVisionConfig, Qwen2Config

    vision = InternVLVisionConfig(**_stub(image_size=[28, 28], patch_size=[14, 14]))
    text = Qwen2Config(**_text(shape))
    return InternVLConfig(vision_config=vision, text_config=text, image_token_id=_IMAGE)


def _qwen2_5_vl(shape: Shape) -> Any:
    from transformers import Qwen2_5_VLConfig

    time = shape.head_dim // 8
    side = (shape.head_dim // 2 - time) // 2
    rope = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [time, side, side]}
    vision = {
        "depth": 1,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_heads": 1,
        "out_hidden_size": shape.hidden,
        "spatial_merge_size": _MERGED,
        "fullatt_block_indexes": [0],
    }
    return Qwen2_5_VLConfig(
        vision_config=vision,
        text_config={**_text(shape), "rope_parameters": rope},
        image_token_id=_IMAGE,
        video_token_id=2,
        vision_start_token_id=0,
        vision_end_token_id=1,
    )


@dataclass(frozen=True)
class _Family:
    """Random models of a family.

    Attributes:
        config: Returns the config for a decoder of this shape.
        flat_features: True if the features of all images are one tensor, else one per image.
        image_grid: True if prompts also hold the grid of patches of each image.
    """

    config: Callable[[Shape], Any]
    flat_features: bool = False
    image_grid: bool = False


_FAMILIES: dict[str, _Family] = {
    "llava": _Family(_llava),
    "llava_next": _Family(_llava_next),
    "llava_onevision": _Family(_llava_onevision),
    "internvl": _Family(_internvl, flat_features=True),
    "qwen2_5_vl": _Family(_qwen2_5_vl, image_grid=True),
}
