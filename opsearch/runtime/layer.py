"""One decoder layer that computes only the rows its plan lists.

Between the layers of a pruned prefill the hidden states are the flat, ragged rows [1, R, D] that
some later operation needs; the last layer puts them back to their places in [B, S, D].
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from opsearch.runtime.cache import PrunedCache
from opsearch.runtime.plan import Plan, Step


def pruned_forward(layer: nn.Module, index: int, stock: Callable[..., Any]) -> Callable[..., Any]:
    """A forward for decoder layer `index` that follows the plan of the PrunedCache it is given."""

    def forward(hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        cache = kwargs.get("past_key_values")
        if not isinstance(cache, PrunedCache):
            return stock(hidden_states, attention_mask=attention_mask, **kwargs)
        if cache.plan is None or not cache.prefilling(index):
            visible = cache.pruned[index].visible(attention_mask, hidden_states.shape[1])
            return stock(hidden_states, attention_mask=visible, **kwargs)
        return _prefill(layer, index, cache.plan, hidden_states, attention_mask, kwargs)

    return forward


def _prefill(
    layer: Any, index: int, plan: Plan, hidden: Tensor, mask: Tensor | None, kwargs: dict[str, Any]
) -> Tensor:
    cache: PrunedCache = kwargs["past_key_values"]
    step = plan.steps[index]
    if index == 0:
        hidden = hidden.flatten(0, 1)[plan.entry.flat]
    stream = hidden.reshape(-1, hidden.shape[-1])
    cache.pruned[index].begin(step.kv)

    update = _attention(layer, plan, step, layer.input_layernorm(stream), mask, kwargs)
    stream = step.q_in_after.add(step.after_in_stream.take(stream), update)
    rows = layer.post_attention_layernorm(step.mlp_in_after.take(stream))
    stream = step.mlp_in_after.add(stream, layer.mlp(rows))

    if index + 1 < len(plan.steps):
        return stream[None]
    cache.plan = None
    batch, length = len(step.after.sizes), step.after.length
    full = stream.new_zeros(batch * length, stream.shape[-1])
    return full.index_copy(0, step.after.flat, stream).view(batch, length, -1)


def _attention(
    layer: Any,
    plan: Plan,
    step: Step,
    normed: Tensor,
    stock_mask: Tensor | None,
    kwargs: dict[str, Any],
) -> Tensor:
    """What attention adds to the q rows, [R_q, D]."""
    mask, has_key = plan.mask(stock_mask, step.q, step.kv)
    queries = step.q_in_stream.pad(normed, step.q.sizes)
    cos_sin = plan.rotary(kwargs["position_embeddings"], step.q)
    if step.q is step.kv:
        inputs = {**kwargs, "position_embeddings": cos_sin, "position_ids": None}
        output, _ = layer.self_attn(hidden_states=queries, attention_mask=mask, **inputs)
        return step.q.unpad(output)
    states = step.kv_in_stream.pad(normed, step.kv.sizes)
    kv_cos_sin = plan.rotary(kwargs["position_embeddings"], step.kv)
    output = split_attention(
        layer.self_attn, queries, states, cos_sin, kv_cos_sin, mask, kwargs["past_key_values"]
    )
    if has_key is not None:
        output = output * has_key[..., None]
    return step.q.unpad(output)


def split_attention(
    attn: Any,
    queries: Tensor,
    states: Tensor,
    q_cos_sin: tuple[Tensor, Tensor],
    kv_cos_sin: tuple[Tensor, Tensor],
    mask: Tensor | None,
    cache: PrunedCache,
) -> Tensor:
    """Attention of some rows over the keys and values of others, with the module's own weights.

    queries [B, Kq, D], states [B, Kkv, D] are normed hidden states; returns [B, Kq, D].
    """
    q = project_queries(attn, queries, q_cos_sin)
    k, v = cache.update(*project_keys_values(attn, states, kv_cos_sin), attn.layer_idx)
    return attend(attn, q, k, v, mask)


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
    k = _heads(attn, attn.k_proj(states), "k_norm")
    rotated: Tensor = _rotary(attn)(k[:, :0], k, *cos_sin)[1]
    return rotated, _heads(attn, attn.v_proj(states))


def attend(attn: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """The module's attention function and output projection, [B, Kq, D]; mask: [B, 1, Kq, Kkv]."""
    function = ALL_ATTENTION_FUNCTIONS.get_interface(
        attn.config._attn_implementation, _family(attn).eager_attention_forward
    )
    output, _ = function(attn, q, k, v, mask, dropout=0.0, scaling=attn.scaling)
    projected: Tensor = attn.o_proj(output.flatten(2))
    return projected


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
