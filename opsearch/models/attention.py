"""Steps of a decoder layer's attention, computed with its weights and its family's functions."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

FLASH = "flash_attention_2"  # takes key masks only, bool[B, S_kv]


def project_queries(attn: Any, states: Tensor, cos_sin: tuple[Tensor, Tensor]) -> Tensor:
    """Return rotated queries [B, H, K, hd] of normed states [B, K, D]; cos, sin: [B, K, hd]."""
    q = _heads(attn, attn.q_proj(states), "q_norm")
    # The stock function rotates queries and keys; keys with zero heads cost nothing.
    rotated: Tensor = _rotary(attn)(q, q[:, :0], *cos_sin)[0]
    return rotated


def project_keys_values(
    attn: Any, states: Tensor, cos_sin: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Return rotated keys and values [B, H_kv, K, hd] of normed hidden states [B, K, D]."""
    return project_keys(attn, states, cos_sin), _heads(attn, attn.v_proj(states))


def project_keys(attn: Any, states: Tensor, cos_sin: tuple[Tensor, Tensor]) -> Tensor:
    """Return rotated keys [B, H_kv, K, hd] of normed hidden states [B, K, D]."""
    k = _heads(attn, attn.k_proj(states), "k_norm")
    rotated: Tensor = _rotary(attn)(k[:, :0], k, *cos_sin)[1]
    return rotated


def attend(
    attn: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, name: str | None = None
) -> Tensor:
    """Apply attention and the output projection, [B, Kq, D]; mask: [B, 1, Kq, Kkv].

    `name` is an attention implementation in place of the module's.
    """
    projected: Tensor = attn.o_proj(attended(attn, q, k, v, mask, name))
    return projected


def attended(
    attn: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, name: str | None = None
) -> Tensor:
    """Apply the module's attention function and concatenate the heads, [B, Kq, H * hd].

    With a mask, FlashAttention is replaced by SDPA, because it accepts no query-by-key masks.
    """
    name = name or implementation(attn)
    if name == FLASH and mask is not None:
        name = "sdpa"
    function = ALL_ATTENTION_FUNCTIONS.get_interface(name, _modeling(attn).eager_attention_forward)
    dropout = attn.attention_dropout if attn.training else 0.0
    output, _ = function(attn, q, k, v, mask, dropout=dropout, scaling=attn.scaling)
    heads: Tensor = output.flatten(2)
    return heads


def causal_mask(attn: Any, length: int, like: Tensor) -> Tensor | None:
    """Return a causal mask over `length` rows for eager attention, None for others."""
    if implementation(attn) != "eager":
        return None
    mask = torch.full((length, length), torch.finfo(like.dtype).min, dtype=like.dtype)
    return mask.triu(1)[None, None].to(like.device)


def implementation(attn: Any) -> str:
    """Return the name of the module's attention implementation."""
    name: str = attn.config._attn_implementation
    return name


def _modeling(attn: Any) -> Any:
    """Return the transformers module that defines this attention and its functions."""
    return sys.modules[type(attn).__module__]


def _rotary(attn: Any) -> Callable[..., tuple[Tensor, Tensor]]:
    """Return the family's function that rotates queries and keys by cos and sin."""
    modeling = _modeling(attn)
    if hasattr(modeling, "apply_multimodal_rotary_pos_emb"):
        # Older releases of transformers merge the time, height and width sections in each layer.
        sections = attn.config.rope_parameters["mrope_section"]
        return partial(modeling.apply_multimodal_rotary_pos_emb, mrope_section=sections)
    rotary: Callable[..., tuple[Tensor, Tensor]] = modeling.apply_rotary_pos_emb
    return rotary


def _heads(attn: Any, projected: Tensor, norm: str | None = None) -> Tensor:
    """Split [B, K, H * hd] into heads [B, H, K, hd] and apply the family's norm, if any."""
    width = projected.shape[-1]
    heads = projected.view(*projected.shape[:-1], width // attn.head_dim, attn.head_dim)
    if norm is not None and hasattr(attn, norm):
        heads = getattr(attn, norm)(heads)
    return heads.transpose(1, 2)
