"""Forward of a decoder layer that computes only the rows of its plan.

Between the layers of a pruned prefill the hidden states are flat, ragged rows [1, R, D]: the rows
that a later operation needs. Rows that no operation needs any more leave the stream and stay as
they are. The last layer returns all rows as [B, S, D]; those of padding hold their inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from opsearch.models.attention import Attention, CosSin
from opsearch.models.layers import DecoderLayer
from opsearch.models.pruned.cache import PrunedCache
from opsearch.models.pruned.compilation import eager
from opsearch.models.pruned.plan import LayerPlan, Plan
from opsearch.models.pruned.ranking import decoder_scores


def pruned_forward(
    layer: DecoderLayer, index: int, stock: Callable[..., Any]
) -> Callable[..., Any]:
    """Return a forward for decoder layer `index` that follows the plan of a PrunedCache."""

    def forward(hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
        cache = kwargs.get("past_key_values")
        if not isinstance(cache, PrunedCache):
            return stock(hidden_states, attention_mask=attention_mask, **kwargs)
        if cache.plan is None or not cache.prefilling(index):
            attention = layer.attention.implementation
            visible = cache.visible(index, attention_mask, hidden_states.shape[1], attention)
            return stock(hidden_states, attention_mask=visible, **kwargs)
        return prefill(layer, index, cache.plan, hidden_states, attention_mask, kwargs)

    return forward


@eager
def prefill(
    layer: DecoderLayer,
    index: int,
    plan: Plan,
    hidden: Tensor,
    mask: Tensor | None,
    kwargs: dict[str, Any],
) -> Tensor:
    """Return the output of layer `index` for [B, S, D] (first layer) or rows [1, R, D] (others)."""
    cache: PrunedCache = kwargs["past_key_values"]
    plan.to_device(index, hidden.device)
    if index == 0:
        hidden = plan.begin(hidden)
    stream = _rerank(layer, index, plan, hidden.reshape(-1, hidden.shape[-1]), mask, kwargs)
    planned = plan.planned[index]
    cache.pruned[index].begin(planned.kv)

    update = _attention(layer, plan, planned, layer.attention_input(stream), mask, kwargs)
    plan.leave(index, plan.entering(index), stream, planned.after)
    before = planned.after_in_stream.take(stream)
    stream = planned.q_in_after.add(before, update)
    rows = planned.mlp_in_after.take(before if layer.parallel else stream)
    # compressed-tensors needs a batch dimension to scale each row separately.
    stream = planned.mlp_in_after.add(stream, layer.mlp_update(rows[None])[0])

    if index + 1 < plan.layers:
        plan.leave(index, planned.after, stream, plan.arriving(index + 1))
        rows = planned.next_in_after.take(stream)
        return plan.with_features(index, plan.arriving(index + 1), rows)[None]
    stream = plan.with_features(index, planned.after, stream)
    cache.plan = None
    batch, length = len(planned.after.sizes), planned.after.length
    return plan.left.index_copy(0, planned.after.flat, stream).view(batch, length, -1)


def _rerank(
    layer: DecoderLayer,
    index: int,
    plan: Plan,
    stream: Tensor,
    mask: Tensor | None,
    kwargs: dict[str, Any],
) -> Tensor:
    """Return the rows [R, D] that enter layer `index`, reranked where the policy says so.

    Also computes the scores of a reranking before the next layer that reads this one's attention.
    """
    here, following = plan.rerankings.get(index), plan.rerankings.get(index + 1)
    cos_sin = kwargs["position_embeddings"]
    if here is not None:
        if here.attention_layer == index:
            rows = plan.arriving(index)
            plan.scores = decoder_scores(layer, plan, here, stream, rows, cos_sin, mask)
        arriving = plan.arriving(index)
        within = plan.rerank(index)
        plan.leave(index, arriving, stream, plan.entering(index))
        stream = within.take(stream)
    if following is not None and following.attention_layer == index:
        rows = plan.entering(index)
        plan.scores = decoder_scores(layer, plan, following, stream, rows, cos_sin, mask)
    return stream


def _attention(
    layer: DecoderLayer,
    plan: Plan,
    planned: LayerPlan,
    normed: Tensor,
    stock_mask: Tensor | None,
    kwargs: dict[str, Any],
) -> Tensor:
    """Return what attention adds to the q rows, [R_q, D]."""
    attention, kind = layer.attention, layer.kind
    mask, has_key = plan.mask(kind, stock_mask, planned.q, planned.kv, attention.implementation)
    queries = planned.q_in_stream.pad(normed, planned.q.sizes)
    cos_sin = plan.rotary(kind, kwargs["position_embeddings"], planned.q)
    if planned.q is planned.kv:
        inputs = {**kwargs, "position_embeddings": cos_sin, "position_ids": None}
        output, _ = attention.module(hidden_states=queries, attention_mask=mask, **inputs)
    else:
        states = planned.kv_in_stream.pad(normed, planned.kv.sizes)
        kv_cos_sin = plan.rotary(kind, kwargs["position_embeddings"], planned.kv)
        output = split_attention(
            attention, queries, states, cos_sin, kv_cos_sin, mask, kwargs["past_key_values"]
        )
        if has_key is not None:
            output = output * has_key[..., None]
    return layer.attention_update(planned.q.unpad(output))


def split_attention(
    attention: Attention,
    queries: Tensor,
    states: Tensor,
    q_cos_sin: CosSin,
    kv_cos_sin: CosSin,
    mask: Tensor | None,
    cache: PrunedCache,
) -> Tensor:
    """Apply attention where the rows of the queries differ from those of keys and values.

    Args:
        attention: The layer's attention.
        queries: Normed hidden states of the query rows, [B, Kq, D].
        states: Normed hidden states of the key and value rows, [B, Kkv, D].
        q_cos_sin: Rotary embeddings of the query rows, [B, Kq, hd] each.
        kv_cos_sin: Rotary embeddings of the key rows, [B, Kkv, hd] each.
        mask: Attention mask [B, 1, Kq, Kkv], None for causal attention.
        cache: Receives keys and values.

    Returns:
        Attention outputs [B, Kq, D].
    """
    q = attention.queries(queries, q_cos_sin)
    k, v = attention.keys_values(states, kv_cos_sin)
    return attention.attend(q, *cache.update(k, v, attention.module.layer_idx), mask)
