"""What one turn of a ranker inside the decoder takes, on its own.

Timed are the queries and keys projected for it by a layer, its scores and the new order of all
visual tokens. PyramidDrop and SparseVLM take three turns, the later ones over fewer tokens, and
FitPrune one in every layer that deletes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opsearch.policy import RankerSpec
from opsearch.rankers import make_decoder_ranker
from opsearch.rankers.prompt import Prompt, ranking_from_scores
from opsearch.runtime.adapters import family_for
from opsearch.runtime.looking import decoder_scores
from opsearch.runtime.plan import BatchReranking, Plan, PlanInputs


def turn_of(model: Any, name: str, prompt: Prompt) -> Callable[[], Tensor]:
    """A function that orders all visual tokens of the prompts by the attention of the first layer.

    Reads what enters the decoder; ranks int64[B, S].
    """
    decoder = model.get_submodule(family_for(model.config.model_type).decoder)
    pools = np.array(prompt.n_visual, np.int64)
    counts = np.tile(pools[:, None, None], (1, len(decoder.layers), 3))
    plan = Plan(PlanInputs(prompt, torch.where(prompt.visual, 0, -1), counts, {}))
    turn = BatchReranking(make_decoder_ranker(RankerSpec(name)), 0, pools)
    assert prompt.embeds is not None
    stream = prompt.embeds[prompt.real].to(model.dtype)
    places = torch.arange(prompt.visual.shape[1], device=stream.device)[None]
    rotary = decoder.rotary_emb(stream, places)

    def order() -> Tensor:
        scores = decoder_scores(decoder.layers[0], plan, turn, stream, plan.arriving(0), rotary)
        return ranking_from_scores(scores, prompt.visual)

    return order
