"""How a ranker inside the decoder comes to its scores: from the hidden states before a layer.

Queries and keys are projected for the ranker alone, by the layer's own weights, so that no layer
has to hand out attention that its kernel never writes down.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from opsearch.rankers.look import AttentionView
from opsearch.runtime.heads import project_keys, project_queries
from opsearch.runtime.plan import BatchTurn, Pair, Plan
from opsearch.runtime.rows import Rows, Within


def look(
    layer: Any, plan: Plan, turn: BatchTurn, stream: Tensor, there: Rows, position_embeddings: Pair
) -> Tensor:
    """Scores float32[B, S] by the attention of a layer, of whose input the rows `there` are given.

    stream: [R, D]; positions that are not to be ordered have no meaning.
    """
    keys = plan.rows(turn.pools)
    asking = {"last": _last(keys, plan), "text": plan.rows(turn.pools * 0), "all": keys}
    rows = asking[turn.ranker.asks]
    normed = layer.input_layernorm(Within.of(keys, there).take(stream))

    def projected(project: Any, of: Rows) -> Tensor:
        cos, sin = position_embeddings
        states = Within.of(of, keys).pad(normed, of.sizes)
        heads: Tensor = project(layer.self_attn, states, (of.gather(cos), of.gather(sin)))
        return heads

    seen = AttentionView(
        plan.prompt,
        projected(project_queries, rows),
        rows.index,
        rows.valid,
        projected(project_keys, keys),
        keys.index,
        keys.valid,
        layer.self_attn.scaling,
    )
    scores = turn.ranker.scores(seen)
    found = scores.new_zeros(plan.rank.shape)
    return found.scatter(1, keys.index, scores)


def _last(keys: Rows, plan: Plan) -> Rows:
    """The last row of every prompt."""
    real = plan.prompt.real
    columns = torch.arange(real.shape[1], device=real.device)
    index = (columns * real).amax(1, keepdim=True)
    return Rows(index, (1,) * len(index), keys.length)
