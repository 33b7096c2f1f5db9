"""Time of one ranking inside the decoder, in isolation.

Timed are a layer's projection of queries and keys for the ranker, its scores and the new order of
all visual tokens. PyramidDrop and SparseVLM rank three times, later over fewer tokens, and FitPrune
in every layer that deletes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opsearch.models.families import family_for
from opsearch.models.pruned.plan import BatchReranking, Plan, PlanInputs
from opsearch.models.pruned.ranking import decoder_scores
from opsearch.policy.ranker import RankerSpec
from opsearch.rankers import make_decoder_ranker
from opsearch.rankers.base import Prompt, ranking_from_scores


def decoder_ranking(model: Any, name: str, prompt: Prompt) -> Callable[[], Tensor]:
    """Return a function that orders the prompts' visual tokens by the first layer's attention.

    It reads the embeddings and returns ranks, int64[B, S].
    """
    decoder = model.get_submodule(family_for(model.config.model_type).decoder)
    candidates = np.array(prompt.n_visual, np.int64)
    counts = np.tile(candidates[:, None, None], (1, len(decoder.layers), 3))
    plan = Plan(PlanInputs(prompt, torch.where(prompt.visual, 0, -1), counts, {}))
    reranking = BatchReranking(make_decoder_ranker(RankerSpec(name)), 0, candidates)
    assert prompt.embeds is not None
    stream = prompt.embeds[prompt.real].to(model.dtype)
    positions = torch.arange(prompt.visual.shape[1], device=stream.device)[None]
    rotary = decoder.rotary_emb(stream, positions)

    def order() -> Tensor:
        scores = decoder_scores(
            decoder.layers[0], plan, reranking, stream, plan.arriving(0), rotary
        )
        return ranking_from_scores(scores, prompt.visual)

    return order
