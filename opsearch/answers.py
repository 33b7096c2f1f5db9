"""Answers and scores of a model, original or under a policy, by real generation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from opsearch.errors import DataError
from opsearch.measure.samples import Sample, batch_inputs, batches
from opsearch.policy import Policy


@dataclass(frozen=True)
class Answers:
    """What a model generated for samples, and whether it is right (exact match), float64[S]."""

    texts: tuple[str, ...]
    scores: NDArray[np.float64]
    families: tuple[str, ...]

    def by_family(self) -> dict[str, float]:
        """Mean score of each family, in order of appearance."""
        names = dict.fromkeys(self.families)
        family = np.array(self.families)
        return {name: float(self.scores[family == name].mean()) for name in names}


@torch.no_grad()
def answer(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    policy: Policy | None = None,
    max_new_tokens: int = 16,
    max_tokens: int = 8192,
    progress: Callable[[int, int], None] | None = None,
) -> Answers:
    """Generate greedily for every sample, under `policy` if given, and score against the answers.

    Raises DataError when a sample has no answer to compare with.
    """
    unanswered = [s.item.id for s in samples if not s.item.answers]
    if unanswered:
        raise DataError(
            f"item {unanswered[0]} has no answer, so accuracy cannot be computed "
            f"({len(unanswered)} such items); add answers to the data"
        )
    texts: dict[int, str] = {}
    place = {id(sample): i for i, sample in enumerate(samples)}
    with policy.apply(model) if policy else nullcontext():
        for batch in batches(samples, max_tokens):
            inputs = batch_inputs(batch, model.device)
            output = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
            generated = output[:, inputs["input_ids"].shape[1] :]
            decoded = processor.tokenizer.batch_decode(generated, skip_special_tokens=True)
            texts |= {place[id(s)]: t.strip() for s, t in zip(batch, decoded, strict=True)}
            if progress:
                progress(len(texts), len(samples))
    ordered = tuple(texts[i] for i in range(len(samples)))
    pairs = zip(ordered, samples, strict=True)
    scores = np.array([float(_matches(text, s.item.answers)) for text, s in pairs])
    return Answers(ordered, scores, tuple(s.item.family for s in samples))


def relative_average(scores: dict[str, float], original: dict[str, float]) -> float:
    """Rel. Avg.: mean over families of the score's ratio to the original model's.

    A family in which the original scores 0 has no ratio and is left out; nan when all do.
    """
    ratios = [scores[name] / value for name, value in original.items() if value > 0]
    return float(np.mean(ratios)) if ratios else float("nan")


def _matches(text: str, answers: Sequence[str]) -> bool:
    """Exact match without case, surrounding space and a final full stop."""
    normal = text.strip().rstrip(".").casefold()
    return any(normal == answer.strip().rstrip(".").casefold() for answer in answers)
