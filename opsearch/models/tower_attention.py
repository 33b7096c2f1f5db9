"""Attention that each patch receives in a layer of the vision tower, for towers without a [CLS].

"received_attention:LAYER" is the softmax attention to a patch, summed over the queries of its image
and averaged over heads, so that its mean over all keys of an image is 1. [CLS] counts as a query if
there is one. LAYER is an index, or a share of the tower's depth: 0.5 is the last layer of its first
half. Source: HiPrune (arXiv 2508.00553).

Queries and keys are those that the tower's own attention function receives, after all norms and
rotations. Attention modules are found by their projections: one with `qkv`, or `q_proj` and
`k_proj`, in each layer of the longest list of modules. All towers of transformers that look their
attention function up by `config._attn_implementation` can be read this way.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Collection
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from opsearch.errors import ModelError
from opsearch.models.handles import Handle, Replaced, Store
from opsearch.rankers.base import RECEIVED

See = Callable[[Tensor, Tensor, float, Tensor | None], None]

# Without "flash" in it: towers that pack images into one sequence then attend image by image.
_OBSERVED = "opsearch_observed"
_CELLS = 2**26  # most attention weights held at a time, 256 MiB


def received_unsupported_reason(config: Any, need: str) -> str | None:
    """Return why the tower of this config cannot provide received attention, None if it can."""
    try:
        chosen_layer(config.vision_config, need)
    except ModelError as error:
        return str(error)
    return None


def chosen_layer(vision_config: Any, need: str) -> int:
    """Return the index of the vision layer that a need names.

    A share names the nearest layer that attends to the whole image, of two the earlier one.

    Raises:
        ModelError: There is no such layer, or it attends within windows.
    """
    layer = need.removeprefix(RECEIVED)
    depth = int(getattr(vision_config, "num_hidden_layers", None) or vision_config.depth)
    whole: list[int] = list(getattr(vision_config, "fullatt_block_indexes", None) or range(depth))
    if not layer.removeprefix("-").isdigit():
        last = max(0, math.ceil(float(layer) * depth) - 1)
        return min(whole, key=lambda index: (abs(index - last), index))
    number = int(layer)
    index = number + depth if number < 0 else number
    if not 0 <= index < depth:
        raise ModelError(f"its vision tower has {depth} layers, and none with index {layer}")
    if index not in whole:
        raise ModelError(
            f"its vision layer {layer} attends within windows, so that tokens of different windows "
            f"cannot be compared; layers {', '.join(map(str, whole))} attend to the whole image"
        )
    return index


def received(queries: Tensor, keys: Tensor, scaling: float, mask: Tensor | None = None) -> Tensor:
    """Return the attention to each key, summed over queries and averaged over heads.

    Args:
        queries: Queries, [images, H, Q, hd].
        keys: Keys, [images, H, K, hd].
        scaling: Factor of the attention logits.
        mask: True or 0 where a query sees a key, broadcastable to [images, H, Q, K]; None if all
            queries see all keys.

    Returns:
        float32[images, K].
    """
    images, heads, rows = queries.shape[:3]
    keys = keys.float().transpose(-1, -2)
    total = keys.new_zeros(images, keys.shape[-1])
    at_once = max(1, _CELLS // max(1, images * heads * keys.shape[-1]))
    for start in range(0, rows, at_once):
        here = slice(start, start + at_once)
        logits = queries[:, :, here].float() @ keys * scaling
        if mask is not None:
            own = mask[..., here, :] if mask.shape[-2] > 1 else mask
            unseen = ~own if own.dtype == torch.bool else own != 0
            logits = logits.masked_fill(unseen, -torch.inf)
        total += logits.softmax(-1).nan_to_num(0.0).sum(2).mean(1)
    return total


def capture_received(
    model: Any, tower: nn.Module, needs: Collection[str], store: Store
) -> list[Handle]:
    """Pass received attention to `store` whenever the tower runs.

    The value is float32[images, patches] of a tower with a batch of images, without [CLS] where the
    decoder does not see it, and float32[1, patches] of one with all images in one sequence.

    Raises:
        ModelError: No attention layers are found in the tower.
    """
    layers, handles = attention_layers(tower), list[Handle]()
    hidden = 1 if drops_cls(model.config) else 0
    for need in sorted(each for each in needs if each.startswith(RECEIVED)):
        index = chosen_layer(model.config.vision_config, need)
        handles += _on_attention(layers[index], hidden, partial(store, need))
    return handles


def drops_cls(config: Any) -> bool:
    """Return whether the decoder does not see the tower's first output, its [CLS]."""
    # ViP-LLaVA's config has no strategy: [CLS] is always left out.
    unnamed = "default" if config.vision_config.model_type == "clip_vision_model" else "full"
    strategy: str = getattr(config, "vision_feature_select_strategy", unnamed)
    return strategy == "default"


def _on_attention(attn: Any, hidden: int, keep: Callable[[Tensor], None]) -> list[Handle]:
    """Pass the received attention of all calls within one forward to `keep`, as [images, P]."""
    found = threading.local()

    def before(module: nn.Module, args: Any) -> None:
        found.parts = []

    def see(queries: Tensor, keys: Tensor, scaling: float, mask: Tensor | None) -> None:
        # A compiled tower may run without hooks.
        if getattr(found, "parts", None) is not None:
            found.parts.append(received(queries.detach(), keys.detach(), scaling, mask))

    def after(module: nn.Module, args: Any, output: Any) -> None:
        keep(torch.cat(found.parts, 1)[:, hidden:])
        found.parts = None

    hooks = [attn.register_forward_pre_hook(before), attn.register_forward_hook(after)]
    return [*hooks, observe(attn, see)]


def attention_layers(tower: nn.Module) -> list[Any]:
    """Return the attention module of each layer of a vision tower.

    Raises:
        ModelError: There are none.
    """
    lists = [module for module in tower.modules() if isinstance(module, nn.ModuleList)]
    found = [[_attention(layer) for layer in each] for each in lists]
    whole = [layers for layers in found if layers and None not in layers]
    if not whole:
        raise ModelError(
            f"no layers with an attention module were found in a {type(tower).__name__}; choose a "
            "--ranker that does not read its attention"
        )
    return max(whole, key=len)


def _attention(layer: nn.Module) -> Any:
    """Return the only attention module of a layer, None if there is none or several."""
    found = [
        module
        for module in layer.modules()
        if hasattr(module, "config")
        and (hasattr(module, "qkv") or (hasattr(module, "q_proj") and hasattr(module, "k_proj")))
    ]
    return found[0] if len(found) == 1 else None


class _ObservedConfig:
    """Config of an attention module whose queries and keys are observed; else the stock one."""

    _attn_implementation = _OBSERVED

    def __init__(self, stock: Any, see: See) -> None:
        self.stock, self.see = stock, see

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "stock"), name)


def observe(attn: Any, see: See) -> Handle:
    """Call `see` with queries, keys, scaling and mask whenever the module attends.

    Its own attention function runs as before, except FlashAttention, for which SDPA stands in.
    """
    ALL_ATTENTION_FUNCTIONS.register(_OBSERVED, _observed)
    return Replaced(attn, config=_ObservedConfig(attn.config, see))


def _observed(
    attn: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **given: Any,
) -> Any:
    """Pass queries and keys to all observers of the module, then attend.

    Images in one sequence that FlashAttention is told of attend one by one, without a mask over
    the patches of all.
    """
    lengths = None if attention_mask is not None else _image_lengths(given)
    if lengths is None:
        return _attended(attn, query, key, value, attention_mask, given)
    images = zip(*(rows.split(lengths, 2) for rows in (query, key, value)), strict=True)
    return torch.cat([_attended(attn, q, k, v, None, given)[0] for q, k, v in images], 1), None


def _attended(
    attn: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    given: dict[str, Any],
) -> Any:
    # FlashAttention is told of padding by a mask of the keys, [images, K].
    real = attention_mask if attention_mask is not None and attention_mask.ndim == 2 else None
    mask = attention_mask if real is None else real.bool()[:, None, None]
    config = attn.config
    while isinstance(config, _ObservedConfig):
        config.see(query, key, given["scaling"], mask)
        config = config.stock
    name = config._attn_implementation
    # FlashAttention would look itself up in the replaced config.
    name = "sdpa" if name and "flash" in name else name
    eager = sys.modules[type(attn).__module__].eager_attention_forward
    attend = ALL_ATTENTION_FUNCTIONS.get_interface(name, eager)
    output, weights = attend(attn, query, key, value, mask, **given)
    if real is not None:
        output = output * real[..., None, None]  # as FlashAttention does
    return output, weights


def _image_lengths(given: dict[str, Any]) -> list[int] | None:
    """Return the patches of each image in one sequence of all, None if there is one per row."""
    bounds, positions = given.get("cu_seq_lens_q"), given.get("position_ids")
    if bounds is not None:
        return list(bounds.diff().tolist())
    if positions is None:
        return None
    # In older releases of transformers, Pixtral's images are told apart by their positions.
    starts = (positions.flatten() == 0).nonzero().flatten().tolist()
    return [end - start for start, end in pairwise([*starts, positions.numel()])]
