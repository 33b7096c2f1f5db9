"""What rankers read of the vision tower, one row for each visual token in the order of the prompt.

- "cls_attention": float[N], attention of [CLS] to the token's patch, mean over heads, in the layer
  whose output the projector reads;
- "vision_features": [N, D], what the projector reads;
- "tiles": int64[N] on the CPU, the picture or tile of a picture that the token is of;
- "clip_patches:FOLDER": [N, D], the patch as that CLIP model compares it with texts.

Each family makes visual tokens of patches in its own way: one of each (LLaVA), one of a square of
them (InternVL), or tiles are joined and cut to the picture's shape, with a newline token behind
each row (LLaVA-NeXT). Values go the same way, through the model's own code.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from opsearch.runtime.clip import CLIP_PATCHES, joint_patches
from opsearch.runtime.cls_attention import Handle, Keep, on_attention, projected_layer

Capture = Callable[[Any, Collection[str], Keep], list[Handle]]
OF_THE_TOWER = frozenset({"cls_attention", "vision_features", "tiles"})


def capture_patches(model: Any, needs: Collection[str], store: Keep) -> list[Handle]:
    """LLaVA: every patch is a visual token."""
    attn = projected_layer(model, model.model.vision_tower.encoder.layers).self_attn

    def keep(name: str, value: Tensor) -> None:
        store(name, value.flatten(0, 1))

    return _on_tower(model, needs, (attn, attn.q_proj, attn.k_proj), keep)


def capture_merged_patches(model: Any, needs: Collection[str], store: Keep) -> list[Handle]:
    """InternVL: a token is a square of patches; its score is their mean, its features are all."""
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


def capture_packed_patches(model: Any, needs: Collection[str], store: Keep) -> list[Handle]:
    """LLaVA-NeXT: the patches of the whole picture, then those of its tiles row by row.

    Every tile has a [CLS] of its own; their scores are compared as they are. A newline token, which
    no [CLS] attends to, gets what the patch before it has, and so ranks right behind that patch.
    """
    trunk, tiles = model.model, threading.local()
    attn = projected_layer(model, trunk.vision_tower.encoder.layers).self_attn
    stock = trunk.pack_image_features

    def keep(name: str, value: Tensor) -> None:
        vars(tiles).setdefault("values", {})[name] = value

    def pack(image_features: Any, image_sizes: Any, *args: Any, **kwargs: Any) -> Any:
        lengths = [len(feature) for feature in image_features]
        image_sizes = torch.as_tensor(image_sizes).cpu()  # read number by number, again and again
        for name, value in vars(tiles).pop("values", {}).items():
            rows = value if value.ndim == 3 else value[..., None].float()
            newline = rows.new_full((rows.shape[-1],), math.nan)
            packed = torch.cat(stock(rows.split(lengths), image_sizes, "default", newline)[0])
            packed = torch.where(packed.isnan(), packed.roll(1, 0), packed)
            store(name, packed if value.ndim == 3 else packed[:, 0].to(value.dtype))
        return stock(image_features, image_sizes, *args, **kwargs)

    own = vars(trunk).get("pack_image_features")
    trunk.pack_image_features = pack
    handles = _on_tower(model, needs, (attn, attn.q_proj, attn.k_proj), keep)
    return [*handles, _Replaced(trunk, "pack_image_features", own)]


def _on_tower(
    model: Any, needs: Collection[str], attention: tuple[Any, nn.Module, nn.Module], keep: Keep
) -> list[Handle]:
    """Hand what is needed to `keep`, as [tiles, tokens] or [tiles, tokens, D], until removed."""
    trunk, handles = model.model, list[Handle]()

    def on_projector(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        tiles, tokens = args[0].shape[:2]
        if "vision_features" in needs:
            keep("vision_features", args[0])
        if "tiles" in needs:
            keep("tiles", torch.arange(tiles)[:, None].expand(-1, tokens))

    if "cls_attention" in needs:
        handles += on_attention(*attention, keep)
    if not {"vision_features", "tiles"}.isdisjoint(needs):
        handles.append(trunk.multi_modal_projector.register_forward_pre_hook(on_projector))
    for need in needs:
        if need.startswith(CLIP_PATCHES):
            handles.append(_on_last_layer(trunk.vision_tower, need, keep))
    return handles


def _on_last_layer(tower: nn.Module, need: str, keep: Keep) -> Handle:
    folder = need.removeprefix(CLIP_PATCHES)

    def on_tower(module: nn.Module, args: Any, output: Any) -> None:
        keep(need, joint_patches(folder, output.last_hidden_state[:, 1:]))

    return tower.register_forward_hook(on_tower)


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
