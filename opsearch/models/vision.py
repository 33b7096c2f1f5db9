"""Ranker inputs captured in the vision tower, one row per visual token in prompt order.

- "cls_attention": float[N], attention from [CLS] to the token's patch, averaged over heads, in the
  layer whose output the projector reads;
- "vision_features": [N, D], input of the projector;
- "tiles": int64[N] on the CPU, number of the image or image tile that the token belongs to;
- "clip_patches:FOLDER": [N, D], the patch in the joint space of that CLIP model.

A visual token is one patch (LLaVA), a square of patches (InternVL), or a patch of a tile that is
joined with others and cropped to the shape of the image, with a newline token after each row
(LLaVA-NeXT). Captured values pass through the model's own code for this.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from opsearch.errors import echo
from opsearch.models.clip import joint_patches
from opsearch.rankers.base import CLIP_PATCHES

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
            f"its decoder sees all vision tokens (strategy {echo(strategy)}), the [CLS] attention "
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


Capture = Callable[[Any, Collection[str], Store], list[Handle]]
TOWER_NEEDS = frozenset({"cls_attention", "vision_features", "tiles"})


def capture_patches(model: Any, needs: Collection[str], store: Store) -> list[Handle]:
    """Capture ranker inputs of LLaVA, where each patch is a visual token."""
    attn = projected_layer(model, model.model.vision_tower.encoder.layers).self_attn

    def keep(name: str, value: Tensor) -> None:
        store(name, value.flatten(0, 1))

    return _on_tower(model, needs, (attn, attn.q_proj, attn.k_proj), keep)


def capture_merged_patches(model: Any, needs: Collection[str], store: Store) -> list[Handle]:
    """Capture ranker inputs of InternVL, where each token is a square of patches.

    The attention of a token is the mean over its patches; its features are all of theirs.
    """
    trunk = model.model
    attn = projected_layer(model, trunk.vision_tower.encoder.layer).attention

    def keep(name: str, value: Tensor) -> None:
        if name == "cls_attention":
            side = math.isqrt(value.shape[1])
            squares = trunk.pixel_shuffle(
                value.view(-1, side, side, 1), scale_factor=model.config.downsample_ratio
            )
            value = squares.mean(-1).flatten(1)
        store(name, value.flatten(0, 1))

    return _on_tower(model, needs, (attn, attn.q_norm, attn.k_norm), keep)


def capture_packed_patches(model: Any, needs: Collection[str], store: Store) -> list[Handle]:
    """Capture ranker inputs of LLaVA-NeXT: the whole image, then its tiles row by row.

    Each tile has its own [CLS]; scores of different tiles are compared without rescaling. A newline
    token has no patch and copies the values of the token before it, so it ranks next to that token.
    """
    trunk, tiles = model.model, threading.local()
    attn = projected_layer(model, trunk.vision_tower.encoder.layers).self_attn
    stock = trunk.pack_image_features

    def keep(name: str, value: Tensor) -> None:
        vars(tiles).setdefault("values", {})[name] = value

    def pack(image_features: Any, image_sizes: Any, *args: Any, **kwargs: Any) -> Any:
        lengths = [len(feature) for feature in image_features]
        image_sizes = torch.as_tensor(image_sizes).cpu()  # read one element at a time below
        for name, value in vars(tiles).pop("values", {}).items():
            rows = value if value.ndim == 3 else value[..., None].float()
            newline = rows.new_full((rows.shape[-1],), math.nan)
            packed = torch.cat(stock(rows.split(lengths), image_sizes, "default", newline)[0])
            packed = torch.where(packed.isnan(), packed.roll(1, 0), packed)
            store(name, packed if value.ndim == 3 else packed[:, 0].to(value.dtype))
        return stock(image_features, image_sizes, *args, **kwargs)

    overridden = vars(trunk).get("pack_image_features")
    trunk.pack_image_features = pack
    handles = _on_tower(model, needs, (attn, attn.q_proj, attn.k_proj), keep)
    return [*handles, _ReplacedMethod(trunk, "pack_image_features", overridden)]


def _on_tower(
    model: Any, needs: Collection[str], attention: tuple[Any, nn.Module, nn.Module], store: Store
) -> list[Handle]:
    """Install hooks that pass `needs` to `store` as [tiles, tokens] or [tiles, tokens, D]."""
    trunk, handles = model.model, list[Handle]()

    def on_projector(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        tiles, tokens = args[0].shape[:2]
        if "vision_features" in needs:
            store("vision_features", args[0])
        if "tiles" in needs:
            store("tiles", torch.arange(tiles)[:, None].expand(-1, tokens))

    if "cls_attention" in needs:
        handles += capture_cls_attention(*attention, store)
    if not {"vision_features", "tiles"}.isdisjoint(needs):
        handles.append(trunk.multi_modal_projector.register_forward_pre_hook(on_projector))
    for need in needs:
        if need.startswith(CLIP_PATCHES):
            handles.append(_on_last_layer(trunk.vision_tower, need, store))
    return handles


def _on_last_layer(tower: nn.Module, need: str, store: Store) -> Handle:
    folder = need.removeprefix(CLIP_PATCHES)

    def on_tower(module: nn.Module, args: Any, output: Any) -> None:
        store(need, joint_patches(folder, output.last_hidden_state[:, 1:]))

    return tower.register_forward_hook(on_tower)


@dataclass(frozen=True)
class _ReplacedMethod:
    """Method replaced on a module instance.

    Attributes:
        module: The module.
        name: Name of the method.
        previous: Instance attribute of that name before, None if there was none.
    """

    module: nn.Module
    name: str
    previous: Any

    def remove(self) -> None:
        """Restore the method."""
        if self.previous is None:
            delattr(self.module, self.name)
        else:
            setattr(self.module, self.name, self.previous)
