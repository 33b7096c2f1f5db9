"""The vision tower's [CLS] attention as scores of visual tokens, in the order of the prompt.

Each family makes visual tokens of patches in its own way: one of each (LLaVA), one of a square of
them (InternVL), or tiles are joined and cut to the picture's shape, with a newline token behind
each row (LLaVA-NeXT). Scores go the same way, through the model's own code.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from opsearch.errors import ModelError

Store = Callable[[str, Tensor], None]


class Handle(Protocol):
    """Something done to a model that can be undone, e.g. a hook."""

    def remove(self) -> None: ...


def capture_patches(model: Any, store: Store) -> list[Handle]:
    """LLaVA: every patch is a visual token."""
    attn = _projected_layer(model, model.model.vision_tower.encoder.layers).self_attn

    def keep(scores: Tensor) -> None:
        store("cls_attention", scores.flatten())

    return _on_attention(attn, attn.q_proj, attn.k_proj, keep)


def capture_merged_patches(model: Any, store: Store) -> list[Handle]:
    """InternVL: a token is a square of patches, and its score their mean."""
    trunk = model.model
    attn = _projected_layer(model, trunk.vision_tower.encoder.layer).attention

    def keep(scores: Tensor) -> None:
        side = math.isqrt(scores.shape[1])
        squares = trunk.pixel_shuffle(
            scores.view(-1, side, side, 1), scale_factor=model.config.downsample_ratio
        )
        store("cls_attention", squares.mean(-1).flatten())

    return _on_attention(attn, attn.q_norm, attn.k_norm, keep)


def capture_packed_patches(model: Any, store: Store) -> list[Handle]:
    """LLaVA-NeXT: the patches of the whole picture, then those of its tiles row by row.

    Every tile has a [CLS] of its own; their scores are compared as they are. A newline token, which
    no [CLS] attends to, gets the score of the patch before it and so ranks right behind that patch.
    """
    trunk, tiles = model.model, threading.local()
    attn = _projected_layer(model, trunk.vision_tower.encoder.layers).self_attn

    def keep(scores: Tensor) -> None:
        tiles.scores = scores

    stock = trunk.pack_image_features

    def pack(image_features: Any, image_sizes: Any, *args: Any, **kwargs: Any) -> Any:
        scores = tiles.scores[..., None].split([len(feature) for feature in image_features])
        newline = scores[0].new_full((1,), math.nan)
        packed = torch.cat(stock(scores, image_sizes, "default", newline)[0])[:, 0]
        store("cls_attention", torch.where(packed.isnan(), packed.roll(1), packed))
        return stock(image_features, image_sizes, *args, **kwargs)

    own = vars(trunk).get("pack_image_features")
    trunk.pack_image_features = pack
    handles = _on_attention(attn, attn.q_proj, attn.k_proj, keep)
    return [*handles, _Replaced(trunk, "pack_image_features", own)]


def cls_attention(query: Tensor, keys: Tensor, heads: int, scale: float) -> Tensor:
    """Softmax attention of [CLS] to each patch, mean over heads, float32[images, patches].

    query: [images, 1, D] of [CLS]; keys: [images, 1 + patches, D].
    """
    q = query.unflatten(-1, (heads, -1)).transpose(1, 2).float()
    k = keys.unflatten(-1, (heads, -1)).transpose(1, 2).float()
    attention = torch.softmax(q @ k.transpose(-1, -2) * scale, dim=-1)
    return attention[:, :, 0, 1:].mean(1)


def check_cls(config: Any) -> None:
    """Raise ModelError unless [CLS] of one vision layer attends to what the decoder sees."""
    tower = config.vision_config.model_type
    if tower.startswith("siglip"):
        raise ModelError(
            f"the vision tower is a {tower}, which has no [CLS] to rank by; choose another --ranker"
        )
    feature_layer = config.vision_feature_layer
    if not isinstance(feature_layer, int) or feature_layer == 0:
        raise ModelError(
            f"the model reads vision layers {feature_layer}, so there is no single [CLS] "
            "attention to rank by; choose another --ranker"
        )
    strategy = config.vision_feature_select_strategy
    if strategy != "default":
        raise ModelError(
            f"the decoder sees all vision tokens (strategy {strategy!r}), the [CLS] attention "
            "orders only the patches; choose another --ranker"
        )


def _projected_layer(model: Any, layers: Any) -> Any:
    """The vision layer whose output the projector reads; ModelError where there is none such."""
    check_cls(model.config)
    feature_layer = model.config.vision_feature_layer
    # hidden_states[0] is the embedding, hidden_states[k] leaves layer k - 1, [-1] the last.
    return layers[feature_layer if feature_layer < 0 else feature_layer - 1]


def _on_attention(
    attn: Any, queries: nn.Module, keys: nn.Module, keep: Callable[[Tensor], None]
) -> list[Handle]:
    """Hand scores [images, patches] to `keep` when `queries` and then `keys` of `attn` have run."""
    query = threading.local()

    def on_query(module: nn.Module, args: Any, output: Tensor) -> None:
        query.cls = output[:, :1]

    def on_key(module: nn.Module, args: Any, output: Tensor) -> None:
        keep(cls_attention(query.cls, output, attn.num_heads, attn.scale))

    return [queries.register_forward_hook(on_query), keys.register_forward_hook(on_key)]


@dataclass(frozen=True)
class _Replaced:
    """A method replaced on one module; `own` is what the instance had there before."""

    module: nn.Module
    name: str
    own: Any

    def remove(self) -> None:
        if self.own is None:
            delattr(self.module, self.name)
        else:
            setattr(self.module, self.name, self.own)
