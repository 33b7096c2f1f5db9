"""Ranker inputs captured in the vision tower, one row per visual token in prompt order.

- "cls_attention": float[N], attention from [CLS] to the token's patch, averaged over heads, in the
  layer whose output the projector reads;
- "vision_features": [N, D], input of the projector;
- "tiles": int64[N] on the CPU, number of the image or image tile that the token belongs to;
- "clip_patches:FOLDER": [N, D], the patch in the joint space of that CLIP model;
- "received_attention:LAYER": float[N], attention that the token's patch receives in a layer, see
  opsearch/models/tower_attention.py;
- "previous_frame": int64[N] on the CPU, distance in visual tokens to the token at the same place of
  the preceding frame of its video; 0 where there is none.

A visual token is one patch (LLaVA), a square of patches (InternVL and others;
opsearch/models/patch_squares.py), or a patch of a tile that is joined with others and cropped to
the shape of the image, with a newline token after each row (LLaVA-NeXT, LLaVA-OneVision;
opsearch/models/packed_patches.py). Values captured in the latter pass through the model's own code
for this. opsearch/models/patch_sequences.py has the towers of Qwen-VL and GLM-4V.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from opsearch.errors import echo
from opsearch.models.clip import joint_patches
from opsearch.models.handles import Handle, Store
from opsearch.models.tower_attention import capture_received, drops_cls
from opsearch.rankers.base import CLIP_PATCHES, RECEIVED


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
    tower, layer = config.vision_config.model_type, _feature_layer(config)
    if tower.startswith(("siglip", "pixtral")) or layer is None:
        return f"its vision tower is a {tower}, which has no [CLS] to rank by"
    if not isinstance(layer, int) or layer == 0:
        return f"it reads vision layers {layer}, so there is no single [CLS] attention to rank by"
    if not drops_cls(config):
        strategy = config.vision_feature_select_strategy
        return (
            f"its decoder sees all vision tokens (strategy {echo(strategy)}), the [CLS] attention "
            "orders only the patches"
        )
    return None


def _feature_layer(config: Any) -> Any:
    """Return the vision layer that the projector reads, a list of several, or None if unnamed."""
    # ViP-LLaVA's name in older releases of transformers.
    older = getattr(config, "vision_feature_layers", None)
    return getattr(config, "vision_feature_layer", older)


def projected_layer(model: Any, layers: Any) -> Any:
    """Return the vision layer whose output the projector reads."""
    layer = _feature_layer(model.config)
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
    """Capture ranker inputs of a tower whose patches are a visual token each, e.g. LLaVA's."""

    def keep(name: str, value: Tensor) -> None:
        store(name, value.flatten(0, 1))

    return on_tower(model, needs, cls_of_clip, keep)


Attention = tuple[Any, nn.Module, nn.Module]
"""An attention module, and the modules whose outputs are its queries and keys."""


def cls_of_clip(model: Any) -> Attention:
    """Return the attention of CLIP's layer whose output the projector reads."""
    attn = projected_layer(model, model.model.vision_tower.encoder.layers).self_attn
    return attn, attn.q_proj, attn.k_proj


def cls_of_internvl(model: Any) -> Attention:
    """Return the attention of InternVL's layer whose output the projector reads."""
    attn = projected_layer(model, model.model.vision_tower.encoder.layer).attention
    return attn, attn.q_norm, attn.k_norm


@dataclass(frozen=True)
class Paths:
    """Paths of modules from the model with its language-model head.

    Attributes:
        tower: The vision tower.
        projector: Module whose input are the features of visual tokens or of their patches.
    """

    tower: str = "model.vision_tower"
    projector: str = "model.multi_modal_projector"


PATHS = Paths()  # of most families


def on_tower(
    model: Any,
    needs: Collection[str],
    cls_layer: Callable[[Any], Attention],
    store: Store,
    paths: Paths = PATHS,
    read: Callable[[Tensor], Tensor] = lambda rows: rows,
) -> list[Handle]:
    """Install hooks that pass `needs` to `store` as [tiles, tokens] or [tiles, tokens, D].

    Args:
        model: The model.
        needs: Names of ranker inputs.
        cls_layer: Returns the attention of the layer whose output the projector reads.
        store: Receives names and values.
        paths: Where the modules are.
        read: Returns features of the tokens from the projector's input.
    """
    tower, handles = model.get_submodule(paths.tower), list[Handle]()

    def on_projector(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        features = read(args[0])
        tiles, tokens = features.shape[:2]
        if "vision_features" in needs:
            store("vision_features", features)
        if "tiles" in needs:
            store("tiles", torch.arange(tiles)[:, None].expand(-1, tokens))

    if "cls_attention" in needs:
        handles += capture_cls_attention(*cls_layer(model), store)
    if any(need.startswith(RECEIVED) for need in needs):
        handles += capture_received(model, tower, needs, store)
    if not {"vision_features", "tiles"}.isdisjoint(needs):
        handles.append(model.get_submodule(paths.projector).register_forward_pre_hook(on_projector))
    for need in needs:
        if need.startswith(CLIP_PATCHES):
            handles.append(_on_last_layer(tower, need, store))
    return handles


def _on_last_layer(tower: nn.Module, need: str, store: Store) -> Handle:
    folder = need.removeprefix(CLIP_PATCHES)

    def after(module: nn.Module, args: Any, output: Any) -> None:
        store(need, joint_patches(folder, output.last_hidden_state[:, 1:]))

    return tower.register_forward_hook(after)
