"""The parts of a decoder layer's attention, by its own weights and its family's functions."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from opsearch.runtime.masks import FLASH


def project_queries(attn: Any, states: Tensor, cos_sin: tuple[Tensor, Tensor]) -> Tensor:
    """Rotated queries [B, H, K, hd] of normed hidden states [B, K, D]; cos, sin: [B, K, hd]."""
    q = _heads(attn, attn.q_proj(states), "q_norm")
    # The stock function rotates both of its arguments; a tensor of no heads makes it rotate one.
    rotated: Tensor = _rotary(attn)(q, q[:, :0], *cos_sin)[0]
    return rotated


def project_keys_values(
    attn: Any, states: Tensor, cos_sin: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Rotated keys and values [B, H_kv, K, hd] of normed hidden states [B, K, D]."""
    return project_keys(attn, states, cos_sin), _heads(attn, attn.v_proj(states))


def project_keys(attn: Any, states: Tensor, cos_sin: tuple[Tensor, Tensor]) -> Tensor:
    """Rotated keys [B, H_kv, K, hd] of normed hidden states [B, K, D]."""
    k = _heads(attn, attn.k_proj(states), "k_norm")
    rotated: Tensor = _rotary(attn)(k[:, :0], k, *cos_sin)[1]
    return rotated


def attend(attn: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The module's attention function and output projection, [B, Kq, D]; mask: [B, 1, Kq, Kkv]."""
    projected: Tensor = attn.o_proj(attended(attn, q, k, v, mask))
    return projected


def attended(attn: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The module's attention function, all heads side by side, [B, Kq, H * hd].

    sdpa's in place of FlashAttention's, which takes no mask of rows by columns.
    """
    name = implementation(attn)
    if name == FLASH and mask is not None:
        name = "sdpa"
    function = ALL_ATTENTION_FUNCTIONS.get_interface(name, _family(attn).eager_attention_forward)
    output, _ = function(attn, q, k, v, mask, dropout=0.0, scaling=attn.scaling)
    heads: Tensor = output.flatten(2)
    return heads


def causal_mask(attn: Any, length: int, like: Tensor) -> Tensor | None:
    """What makes the attention function causal over `length` rows: eager alone wants a mask."""
    if implementation(attn) != "eager":
        return None
    ahead = torch.full((length, length), torch.finfo(like.dtype).min, dtype=like.dtype)
    return ahead.triu(1)[None, None].to(like.device)


def implementation(attn: Any) -> str:
    """The name of the function that the module computes attention by."""
    name: str = attn.config._attn_implementation
    return name


def _family(attn: Any) -> Any:
    """The transformers module that defines the attention: its rotary and eager functions."""
    return sys.modules[type(attn).__module__]


def _rotary(attn: Any) -> Callable[..., tuple[Tensor, Tensor]]:
    """The family's function that rotates queries and keys by cos and sin."""
    family = _family(attn)
    if hasattr(family, "apply_multimodal_rotary_pos_emb"):
        # Older releases of transformers merge time, height and width here, not before the layers.
        sections = attn.config.rope_parameters["mrope_section"]
        return partial(family.apply_multimodal_rotary_pos_emb, mrope_section=sections)
    rotary: Callable[..., tuple[Tensor, Tensor]] = family.apply_rotary_pos_emb
    return rotary


def _heads(attn: Any, projected: Tensor, norm: str | None = None) -> Tensor:
    """[B, K, H * hd] as [B, H, K, hd], through the family's norm where it has one."""
    width = projected.shape[-1]
    heads = projected.view(*projected.shape[:-1], width // attn.head_dim, attn.head_dim)
    if norm is not None and hasattr(attn, norm):
        heads = getattr(attn, norm)(heads)
    return heads.transpose(1, 2)
