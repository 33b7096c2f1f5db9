"""A decoder of vLLM that computes only the rows that a step lists for each layer and module.

It works on decoders whose layers normalize the input of attention and MLP, as those of Llama, Qwen2
and Qwen3 do. Queries and keys are computed from different rows, so their projections are split.
"""

from __future__ import annotations

from functools import partial
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from vllm.model_executor.layers.attention.attention import unified_kv_cache_update
from vllm.model_executor.layers.linear import ColumnParallelLinear, QKVParallelLinear
from vllm.model_executor.models.utils import WeightsMapper

from opsearch.errors import ModelError
from opsearch.serving.attention_groups import StepAttention

_STACKED = MappingProxyType(
    {
        ".k_proj": (".kv_proj", "k"),
        ".v_proj": (".kv_proj", "v"),
        ".gate_proj": (".gate_up_proj", 0),
        ".up_proj": (".gate_up_proj", 1),
    }
)
_PARTS = frozenset({"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"})
_ATTENTION = frozenset({"qkv_proj", "o_proj", "rotary_emb", "attn"})
_NORMS = frozenset({"q_norm", "k_norm"})


def prepare_decoder(decoder: Any, serving: Any) -> None:
    """Split the projections of a decoder, before its weights are loaded, and prune its forward.

    Args:
        decoder: vLLM's decoder without the lm_head.
        serving: Has the attribute `step`, a `StepAttention` while a step runs, else None.

    Raises:
        ModelError: Its layers have other parts than those that can be pruned.
    """
    for layer in decoder.layers:
        names = {name for name, _ in layer.named_children()}
        inside = {name for name, _ in layer.self_attn.named_children()} - _NORMS
        if (unknown := names ^ _PARTS | inside ^ _ATTENTION) or layer.self_attn.attn.impl is None:
            raise ModelError(
                f"decoder layers of {type(decoder).__name__} have or lack {sorted(unknown)}; vLLM "
                "serves policies for decoders built as Llama's, Qwen2's and Qwen3's"
            )
        _split(layer.self_attn)
    decoder.hf_to_vllm_mapper = WeightsMapper(orig_to_new_stacked=dict(_STACKED))
    decoder.do_not_compile = True
    decoder.forward = partial(_forward, decoder, serving)


def _split(attention: Any) -> None:
    """Replace the fused projection by one for queries and one for keys and values."""
    fused = attention.qkv_proj
    bias, prefix = fused.bias is not None, fused.prefix.removesuffix("qkv_proj")
    queries = fused.total_num_heads * fused.head_size
    attention.q_proj = ColumnParallelLinear(
        fused.hidden_size, queries, bias=bias, prefix=f"{prefix}q_proj"
    )
    attention.kv_proj = QKVParallelLinear(
        fused.hidden_size,
        fused.head_size,
        total_num_heads=0,
        total_num_kv_heads=fused.total_num_kv_heads,
        bias=bias,
        prefix=f"{prefix}kv_proj",
    )
    del attention.qkv_proj


class _LayerRows(NamedTuple):
    """Rows of each module within the stream; None for all of them."""

    q: Tensor | None
    kv: Tensor | None
    mlp: Tensor | None


def _forward(
    decoder: Any,
    serving: Any,
    input_ids: Tensor | None,
    positions: Tensor,
    intermediate_tensors: Any = None,
    inputs_embeds: Tensor | None = None,
    deepstack_input_embeds: Any = None,
) -> Tensor:
    """Return the last hidden states [T, D]; those of rows that left the stream are 0."""
    step: StepAttention | None = serving.step
    stream = decoder.embed_input_ids(input_ids) if inputs_embeds is None else inputs_embeds
    added = list(deepstack_input_embeds.tensors.values()) if deepstack_input_embeds else []
    if step is None:  # a dummy run
        for layer in decoder.layers:
            stream = _run_layer(layer, positions, stream, _LayerRows(None, None, None))
        return decoder.norm(stream)  # type: ignore[no-any-return]
    total = len(stream)
    here = torch.arange(step.rows, device=stream.device)
    stream, positions = stream[: step.rows], step.positions
    for number, layer in enumerate(decoder.layers):
        kept = step.entering(number)
        if kept is not None and len(kept) < len(here):
            where = torch.searchsorted(here, kept)
            stream, positions, here = stream[where], positions[..., where], kept
        if not len(here):
            break
        step.enter(number)
        stream = _run_layer(layer, positions, stream, _LayerRows(*step.within(number, here)))
        if number < len(added):
            stream = stream + added[number][here]
    stream = decoder.norm(stream) if len(here) else stream
    return stream.new_zeros(total, stream.shape[-1]).index_copy_(0, here, stream)


def _run_layer(layer: Any, positions: Tensor, stream: Tensor, rows: _LayerRows) -> Tensor:
    """Return the stream after a layer.

    Args:
        layer: vLLM's decoder layer with split projections.
        positions: Rotary positions of the stream, int64[..., R].
        stream: Hidden states, [R, D].
        rows: Rows of its modules.
    """
    attended = _attend(layer.self_attn, positions, layer.input_layernorm(stream), rows)
    stream = add_rows(stream, rows.q, attended)
    if _none(rows.mlp):
        return stream
    chosen = layer.post_attention_layernorm(_take(stream, rows.mlp))
    return add_rows(stream, rows.mlp, layer.mlp(chosen))


def _attend(attention: Any, positions: Tensor, normed: Tensor, rows: _LayerRows) -> Tensor:
    """Return what attention adds to the query rows, and store the keys and values."""
    if not _none(rows.kv):
        chosen = _take(positions, rows.kv), _take(normed, rows.kv)
        keys, values = project_keys(attention, *chosen)
        heads = (-1, attention.num_kv_heads, attention.head_dim)
        unified_kv_cache_update(keys.view(heads), values.reshape(heads), attention.attn.layer_name)
    if _none(rows.q):  # a chunk inside an image that only leaves keys
        return normed[:0]
    queries = project_queries(attention, _take(positions, rows.q), _take(normed, rows.q))
    return attention.o_proj(attention.attn(queries, None, None))[0]  # type: ignore[no-any-return]


def project_queries(attention: Any, positions: Tensor, normed: Tensor) -> Tensor:
    """Return the rotated queries of rows [R, D], [R, heads * hd]."""
    return _rotate(attention, "q_norm", positions, attention.q_proj(normed)[0])


def project_keys(attention: Any, positions: Tensor, normed: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rotated keys and the values of rows [R, D], [R, KV heads * hd] each."""
    keys, values = attention.kv_proj(normed)[0].split([attention.kv_size] * 2, dim=-1)
    return _rotate(attention, "k_norm", positions, keys), values


def _rotate(attention: Any, norm: str, positions: Tensor, states: Tensor) -> Tensor:
    """Return queries or keys [R, heads * hd], normalized where the model does so, and rotated."""
    if (by_head := getattr(attention, norm, None)) is not None:
        states = by_head(states.reshape(len(states), -1, attention.head_dim)).flatten(1)
    states = states.contiguous()
    # M-RoPE always rotates two tensors; one head of zeros is the cheapest second one.
    other = states.new_zeros(len(states), attention.head_dim)
    rotated, _ = attention.rotary_emb(positions, states, other)
    return rotated  # type: ignore[no-any-return]


def _none(rows: Tensor | None) -> bool:
    return rows is not None and not len(rows)


def _take(values: Tensor, rows: Tensor | None) -> Tensor:
    """Return the rows of [R, D], or of positions [R] or [3, R]."""
    if rows is None:
        return values
    return values[rows] if values.is_floating_point() else values[..., rows]


def add_rows(stream: Tensor, rows: Tensor | None, update: Tensor) -> Tensor:
    """Return the stream [R, D] with `update` added at some rows, None for all."""
    return stream + update if rows is None else stream.index_add(0, rows, update)
