"""One decoder layer that computes only the rows its plan lists.

Between the layers of a pruned prefill the hidden states are the flat, ragged rows [1, R, D] that
some later operation needs; the last layer puts them back to their places in [B, S, D].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from opsearch.runtime.cache import PrunedCache
from opsearch.runtime.heads import attend, implementation, project_keys_values, project_queries
from opsearch.runtime.looking import look
from opsearch.runtime.plan import Plan, Step


def pruned_forward(layer: nn.Module, index: int, stock: Callable[..., Any]) -> Callable[..., Any]:
    """A forward for decoder layer `index` that follows the plan of the PrunedCache it is given."""

    def forward(hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        cache = kwargs.get("past_key_values")
        if not isinstance(cache, PrunedCache):
            return stock(hidden_states, attention_mask=attention_mask, **kwargs)
        if cache.plan is None or not cache.prefilling(index):
            attention = implementation(layer.self_attn)
            visible = cache.visible(index, attention_mask, hidden_states.shape[1], attention)
            return stock(hidden_states, attention_mask=visible, **kwargs)
        return prefill(layer, index, cache.plan, hidden_states, attention_mask, kwargs)

    return forward


def prefill(
    layer: Any, index: int, plan: Plan, hidden: Tensor, mask: Tensor | None, kwargs: dict[str, Any]
) -> Tensor:
    """What layer `index` makes of [B, S, D] or, behind the first, of the rows [1, R, D]."""
    cache: PrunedCache = kwargs["past_key_values"]
    plan.go_on(index, hidden.device)
    if index == 0:
        hidden = hidden.flatten(0, 1)[plan.stream(0).flat]
    stream = _ordered(layer, index, plan, hidden.reshape(-1, hidden.shape[-1]), kwargs)
    step = plan.steps[index]
    cache.pruned[index].begin(step.kv)

    update = _attention(layer, plan, step, layer.input_layernorm(stream), mask, kwargs)
    stream = step.q_in_after.add(step.after_in_stream.take(stream), update)
    rows = layer.post_attention_layernorm(step.mlp_in_after.take(stream))
    # In a batch of one: compressed-tensors gives each row a scale of its own only in a batch.
    stream = step.mlp_in_after.add(stream, layer.mlp(rows[None])[0])

    if index + 1 < plan.layers:
        return stream[None]
    cache.plan = None
    batch, length = len(step.after.sizes), step.after.length
    full = stream.new_zeros(batch * length, stream.shape[-1])
    return full.index_copy(0, step.after.flat, stream).view(batch, length, -1)


def _ordered(layer: Any, index: int, plan: Plan, stream: Tensor, kwargs: dict[str, Any]) -> Tensor:
    """The stream [R, D] after rankers have looked at this layer, and turned the order before it."""
    turn, next_turn = plan.turns.get(index), plan.turns.get(index + 1)
    cos_sin = kwargs["position_embeddings"]
    if turn is not None:
        if turn.look == index:
            plan.scores = look(layer, plan, turn, stream, plan.stream(index), cos_sin)
        stream = plan.turn(index).take(stream)
    if next_turn is not None and next_turn.look == index:
        plan.scores = look(layer, plan, next_turn, stream, plan.entered(index), cos_sin)
    return stream


def _attention(
    layer: Any,
    plan: Plan,
    step: Step,
    normed: Tensor,
    stock_mask: Tensor | None,
    kwargs: dict[str, Any],
) -> Tensor:
    """What attention adds to the q rows, [R_q, D]."""
    mask, has_key = plan.mask(stock_mask, step.q, step.kv, implementation(layer.self_attn))
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
