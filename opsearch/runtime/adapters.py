"""Where a model family keeps what pruning needs: the only place that knows families by name.

A further family is one more entry of ADAPTERS. All other code reaches a model through an adapter.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from opsearch.errors import ModelError
from opsearch.policy import RankerSpec

Store = Callable[[str, Tensor], None]


@dataclass(frozen=True)
class Adapter:
    """A family's layout, by attribute paths from the model with its head.

    trunk: merges image features and text, calls `decoder`; decoder: the text model with `.layers`;
    vision_tower, vision_layers: the vision tower and its layers, whose attention modules have
    q_proj and k_proj; image_token: config attribute with the id of an image's placeholder token.
    ranker: the default one of the family.
    """

    family: str
    trunk: str
    decoder: str
    vision_tower: str
    vision_layers: str
    image_token: str
    ranker: RankerSpec

    def visual_positions(self, config: Any, input_ids: Tensor) -> Tensor:
        """Positions that hold an image's tokens, bool[B, S]."""
        return torch.eq(input_ids, getattr(config, self.image_token))

    def capture(self, model: Any, needs: Iterable[str], store: Store) -> list[RemovableHandle]:
        """Hooks that hand what rankers need to `store` while the vision tower runs."""
        handles: list[RemovableHandle] = []
        for need in needs:
            if need != "cls_attention":
                raise ModelError(
                    f"family {self.family!r} cannot provide {need!r}, which the ranker reads; "
                    "choose another --ranker"
                )
            handles += self._capture_cls_attention(model, store)
        return handles

    def _capture_cls_attention(self, model: Any, store: Store) -> list[RemovableHandle]:
        feature_layer = model.config.vision_feature_layer
        if not isinstance(feature_layer, int) or feature_layer == 0:
            raise ModelError(
                f"the model reads vision layers {feature_layer}, so there is no single [CLS] "
                "attention to rank by; choose another --ranker"
            )
        strategy = model.config.vision_feature_select_strategy
        if strategy != "default":
            raise ModelError(
                f"the decoder sees all vision tokens (strategy {strategy!r}), the [CLS] attention "
                "orders only the patches; choose another --ranker"
            )
        # hidden_states[0] is the embedding, hidden_states[k] leaves layer k - 1, [-1] the last.
        index = feature_layer if feature_layer < 0 else feature_layer - 1
        attn = model.get_submodule(self.vision_layers)[index].self_attn
        query = threading.local()

        def on_query(module: nn.Module, args: Any, output: Tensor) -> None:
            query.cls = output[:, :1]

        def on_key(module: nn.Module, args: Any, output: Tensor) -> None:
            store("cls_attention", cls_attention(query.cls, output, attn.num_heads, attn.scale))

        return [
            attn.q_proj.register_forward_hook(on_query),
            attn.k_proj.register_forward_hook(on_key),
        ]


def cls_attention(query: Tensor, keys: Tensor, heads: int, scale: float) -> Tensor:
    """Softmax attention of [CLS] to each patch, mean over heads, float32[images * patches].

    query: [images, 1, D] of [CLS]; keys: [images, 1 + patches, D].
    """
    q = query.unflatten(-1, (heads, -1)).transpose(1, 2).float()
    k = keys.unflatten(-1, (heads, -1)).transpose(1, 2).float()
    attention = torch.softmax(q @ k.transpose(-1, -2) * scale, dim=-1)
    return attention[:, :, 0, 1:].mean(1).flatten()


# Layers of two norms, attention and MLP, each added to the residual stream as it is. A family can
# hold any text model; layers of Gemma 2 or Granite add up differently and would be silently wrong.
DECODERS = frozenset({"llama", "mistral", "qwen2", "qwen3"})

ADAPTERS: dict[str, Adapter] = {
    "llava": Adapter(
        family="llava",
        trunk="model",
        decoder="model.language_model",
        vision_tower="model.vision_tower",
        vision_layers="model.vision_tower.encoder.layers",
        image_token="image_token_id",
        ranker=RankerSpec("cls"),
    ),
}


def adapter_for(model_type: str) -> Adapter:
    """The adapter of a family; ModelError lists the supported ones."""
    if model_type not in ADAPTERS:
        raise ModelError(
            f"models of type {model_type!r} are not supported; use one of type "
            f"{', '.join(sorted(ADAPTERS))}"
        )
    return ADAPTERS[model_type]


def check_supported(model: Any) -> Adapter:
    """The adapter of a loaded model; ModelError says what about it cannot be pruned."""
    adapter = adapter_for(model.config.model_type)
    if not hasattr(model, "lm_head"):
        raise ModelError(
            f"a {type(model).__name__} has no language-model head; load the model with "
            "AutoModelForImageTextToText"
        )
    devices = set((getattr(model, "hf_device_map", None) or {}).values())
    if len(devices) > 1:
        raise ModelError(
            f"the model is spread over {len(devices)} devices; load it on one with "
            "device_map={'': 0} or without device_map"
        )
    text = model.config.get_text_config()
    if text.model_type not in DECODERS:
        raise ModelError(
            f"decoders of type {text.model_type!r} are not supported; use a model with one of type "
            f"{', '.join(sorted(DECODERS))}"
        )
    attention = text._attn_implementation
    if attention not in ("sdpa", "eager"):
        raise ModelError(
            f"attention implementation {attention!r} is not supported; load the model with "
            "attn_implementation='sdpa' or 'eager'"
        )
    kinds = set(getattr(text, "layer_types", None) or ["full_attention"])
    if kinds != {"full_attention"} or getattr(text, "sliding_window", None):
        raise ModelError(
            f"the decoder uses attention of types {sorted(kinds)} with a window of "
            f"{getattr(text, 'sliding_window', None)} tokens; only full_attention can be pruned"
        )
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ModelError("the model has weights on the meta device; load it fully before pruning")
    return adapter
