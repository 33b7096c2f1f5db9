"""Attention from the [CLS] token of a vision tower to its patches."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Store = Callable[[str, Tensor], None]


class Handle(Protocol):
    """Change of a model that can be undone, e.g. a hook."""

    def remove(self) -> None:
        """Undo the change."""


def cls_attention(query: Tensor, keys: Tensor, heads: int, scale: float) -> Tensor:
    """Return the softmax attention from [CLS] to each patch, averaged over heads.

    Args:
        query: Query of [CLS], [images, 1, D].
        keys: Keys of [CLS] and the patches, [images, 1 + patches, D].
        heads: Number of heads.
        scale: Factor of the attention logits.

    Returns:
        float32[images, patches].
    """
    q = query.unflatten(-1, (heads, -1)).transpose(1, 2).float()
    k = keys.unflatten(-1, (heads, -1)).transpose(1, 2).float()
    attention = torch.softmax(q @ k.transpose(-1, -2) * scale, dim=-1)
    return attention[:, :, 0, 1:].mean(1)


def cls_unsupported_reason(config: Any) -> str | None:
    """Return why [CLS] attention cannot rank the tokens of this config, None if it can."""
    tower = config.vision_config.model_type
    if tower.startswith("siglip"):
        return f"its vision tower is a {tower}, which has no [CLS] to rank by"
    layer, strategy = config.vision_feature_layer, config.vision_feature_select_strategy
    if not isinstance(layer, int) or layer == 0:
        return f"it reads vision layers {layer}, so there is no single [CLS] attention to rank by"
    if strategy != "default":
        return (
            f"its decoder sees all vision tokens (strategy {strategy!r}), the [CLS] attention "
            "orders only the patches"
        )
    return None


def projected_layer(model: Any, layers: Any) -> Any:
    """Return the vision layer whose output the projector reads."""
    layer = model.config.vision_feature_layer
    # hidden_states[0] are the embeddings, hidden_states[k] is the output of layer k - 1.
    return layers[layer if layer < 0 else layer - 1]


def capture_cls_attention(
    attn: Any, queries: nn.Module, keys: nn.Module, store: Store
) -> list[Handle]:
    """Pass "cls_attention" [images, patches] to `store` whenever `attn` runs.

    Args:
        attn: Attention module with `num_heads` and `scale`.
        queries: Module whose output are the queries.
        keys: Module whose output are the keys; runs after `queries`.
        store: Receives the name and the value.
    """
    query = threading.local()

    def on_query(module: nn.Module, args: Any, output: Tensor) -> None:
        query.cls = output[:, :1]

    def on_key(module: nn.Module, args: Any, output: Tensor) -> None:
        store("cls_attention", cls_attention(query.cls, output, attn.num_heads, attn.scale))

    return [queries.register_forward_hook(on_query), keys.register_forward_hook(on_key)]
