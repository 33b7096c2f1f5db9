"""The attention of a vision tower's [CLS] to its patches, as the forward computes it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn

Keep = Callable[[str, Tensor], None]


class Handle(Protocol):
    """Something done to a model that can be undone, e.g. a hook."""

    def remove(self) -> None: ...


def cls_attention(query: Tensor, keys: Tensor, heads: int, scale: float) -> Tensor:
    """Softmax attention of [CLS] to each patch, mean over heads, float32[images, patches].

    query: [images, 1, D] of [CLS]; keys: [images, 1 + patches, D].
    """
    q = query.unflatten(-1, (heads, -1)).transpose(1, 2).float()
    k = keys.unflatten(-1, (heads, -1)).transpose(1, 2).float()
    attention = torch.softmax(q @ k.transpose(-1, -2) * scale, dim=-1)
    return attention[:, :, 0, 1:].mean(1)


def unusable_cls(config: Any) -> str | None:
    """Why a model whose tower has a [CLS] cannot be ranked by its attention, None where it can."""
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
    """The vision layer whose output the projector reads."""
    layer = model.config.vision_feature_layer
    # hidden_states[0] is the embedding, hidden_states[k] leaves layer k - 1, [-1] the last.
    return layers[layer if layer < 0 else layer - 1]


def on_attention(attn: Any, queries: nn.Module, keys: nn.Module, keep: Keep) -> list[Handle]:
    """Hand "cls_attention" [images, patches] over once `queries` and `keys` of `attn` have run."""
    query = threading.local()

    def on_query(module: nn.Module, args: Any, output: Tensor) -> None:
        query.cls = output[:, :1]

    def on_key(module: nn.Module, args: Any, output: Tensor) -> None:
        keep("cls_attention", cls_attention(query.cls, output, attn.num_heads, attn.scale))

    return [queries.register_forward_hook(on_query), keys.register_forward_hook(on_key)]
