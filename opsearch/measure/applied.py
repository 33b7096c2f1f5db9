"""Policies that rank inside the decoder, measured by applying them to the model one by one.

What such a policy keeps depends on the question as well as the picture, and on what it computed so
far: there is no ranking that it shares with others, and so no trie.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList

from opsearch.measure.samples import Sample, batch_inputs
from opsearch.policy import Policy


@torch.no_grad()
def applied_logits(
    model: Any, policy: Policy, samples: Sequence[Sample], answers: Tensor
) -> Tensor:
    """Logits [B, k, V] at the answer positions of samples of equal shape.

    answers: int64[B, k - 1], the tokens after the prompt, of which rankers see nothing. Positions
    behind the end of all answers repeat the last ones.
    """
    inputs = batch_inputs(samples, model.device)
    positions, length = answers.shape[1] + 1, inputs["input_ids"].shape[1]

    def forced(input_ids: Tensor, scores: Tensor) -> Tensor:
        place = input_ids.shape[1] - length
        if place == answers.shape[1]:
            return scores
        only = torch.full_like(scores, -torch.inf)
        return only.scatter(1, answers[:, place : place + 1], 0.0)

    with policy.apply(model):
        steps = model.generate(
            **inputs,
            max_new_tokens=positions,
            do_sample=False,
            logits_processor=LogitsProcessorList([forced]),
            output_logits=True,
            return_dict_in_generate=True,
        ).logits
    return torch.stack([*steps, *steps[-1:] * (positions - len(steps))], 1)
