"""Scores of rankers inside the decoder, computed from the input of a layer.

Queries and keys are projected for the ranker separately, with the weights of the layer, because
fused attention kernels do not return attention weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from opsearch.rankers.base import AttentionView
from opsearch.runtime.heads import project_keys, project_queries
from opsearch.runtime.plan import BatchReranking, CosSin, Plan
from opsearch.runtime.rows import Rows, RowSubset


def decoder_scores(
    layer: Any,
    plan: Plan,
    reranking: BatchReranking,
    stream: Tensor,
    stream_rows: Rows,
    position_embeddings: CosSin,
) -> Tensor:
    """Return the scores of a ranker from the attention of one layer.

    Args:
        layer: Decoder layer whose attention the ranker reads.
        plan: Plan of the batch.
        reranking: Ranker and its candidates.
        stream: Inputs of the layer, [R, D].
        stream_rows: Positions of the rows of `stream`.
        position_embeddings: cos and sin of all positions.

    Returns:
        float32[B, S]; values at positions that are not candidates are meaningless.
    """
    keys = plan.rows(reranking.candidates)
    text = plan.rows(reranking.candidates * 0)
    choices = {"last": _last_rows(keys, plan), "text": text, "all": keys}
    queries = choices[reranking.ranker.query_rows]
    normed = layer.input_layernorm(RowSubset.of(keys, stream_rows).take(stream))

    def project(projection: Any, rows: Rows) -> Tensor:
        cos, sin = position_embeddings
        states = RowSubset.of(rows, keys).pad(normed, rows.sizes)
        heads: Tensor = projection(layer.self_attn, states, (rows.gather(cos), rows.gather(sin)))
        return heads

    view = AttentionView(
        plan.prompt,
        project(project_queries, queries),
        queries.index,
        queries.valid,
        project(project_keys, keys),
        keys.index,
        keys.valid,
        layer.self_attn.scaling,
    )
    scores = reranking.ranker.scores(view)
    return scores.new_zeros(plan.rank.shape).scatter(1, keys.index, scores)


def _last_rows(keys: Rows, plan: Plan) -> Rows:
    """Return the last row of each prompt."""
    real = plan.prompt.real
    columns = torch.arange(real.shape[1], device=real.device)
    index = (columns * real).amax(1, keepdim=True)
    return Rows(index, (1,) * len(index), keys.length)
