"""Generated answers and scores of a model, original or under a policy."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opsearch.data.item import Item
from opsearch.errors import DataError
from opsearch.evaluation.scoring import score
from opsearch.measure.storage.records import StoredAnswer
from opsearch.measure.storage.store import Store
from opsearch.models.devices import device_of_inputs
from opsearch.models.encoding import Sample, batch_inputs, batches
from opsearch.policy.builders import identity
from opsearch.policy.policy import Policy
from opsearch.progress import Tick
from opsearch.runs.config import MAX_NEW_TOKENS

MAX_TOKENS = 8192
"""Maximum number of positions of one forward."""


@dataclass(frozen=True)
class Answers:
    """Answers to samples.

    Attributes:
        texts: The generated texts.
        scores: Scores between 0 and 1 by the metric of each sample, float64[S].
        families: Family of each sample.
    """

    texts: tuple[str, ...]
    scores: NDArray[np.float64]
    families: tuple[str, ...]

    def by_family(self) -> dict[str, float]:
        """Return the mean score of each family, in order of appearance."""
        names = dict.fromkeys(self.families)
        family = np.array(self.families)
        return {name: float(self.scores[family == name].mean()) for name in names}


def answer(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    policy: Policy | None = None,
    store: Store | None = None,
    progress: Tick | None = None,
) -> Answers:
    """Generate an answer to every sample greedily and score it.

    Args:
        model: The model.
        processor: Its processor.
        samples: Samples with answers.
        policy: Policy to apply; None: the original.
        store: Store whose answers are reused, and to which new ones are written batch by batch.
        progress: Called with the numbers of answered samples and of all.

    Raises:
        DataError: A sample has no answer to compare with.
    """
    named = policy or identity(model.config.get_text_config().num_hidden_layers)
    of = {n: named.canonical(n) for n in {sample.n_visual for sample in samples}}
    keys = [of[sample.n_visual] for sample in samples]
    block = policy.apply(model) if policy else nullcontext()
    return answer_as(keys, block, model, processor, samples, store, progress)


def answer_as(
    keys: Sequence[str],
    block: AbstractContextManager[Any],
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    store: Store | None = None,
    progress: Tick | None = None,
) -> Answers:
    """Generate and score answers as `answer` does, inside a context manager.

    Args:
        keys: Key under which each sample's answer is stored.
        block: Context manager that applies the method.
        model: The model.
        processor: Its processor.
        samples: Samples with answers.
        store: Store whose answers are reused, and to which new ones are written.
        progress: Called with the numbers of answered samples and of all.

    Raises:
        DataError: A sample has no answer to compare with.
    """
    unanswered = [s.item.id for s in samples if not s.item.answers]
    if unanswered:
        raise DataError(
            f"sample {unanswered[0]} has no answer, so accuracy cannot be computed "
            f"({len(unanswered)} samples without answers); add answers to the data"
        )
    found = store.answers(keys) if store else {}
    requests = [(key, sample.digest) for key, sample in zip(keys, samples, strict=True)]
    key_of = {sample.digest: key for key, sample in zip(keys, samples, strict=True)}
    todo = [s for s, request in zip(samples, requests, strict=True) if request not in found]
    done = len(samples) - len(todo)
    with block:
        for batch in batches(todo, MAX_TOKENS):
            texts = decoded(processor, greedy(model, batch, MAX_NEW_TOKENS))
            pairs = list(zip(texts, batch, strict=True))
            new = [
                StoredAnswer(
                    key_of[s.digest], s.digest, text, score(text, s.item.answers, s.item.metric)
                )
                for text, s in pairs
            ]
            if store:
                store.add_answers(new)
            found |= {(row.policy, row.item): row for row in new}
            done += len(new)
            if progress:
                progress(done, len(samples))
    rows = [found[request] for request in requests]
    scores = np.array([row.score for row in rows])
    return Answers(tuple(r.text for r in rows), scores, tuple(s.item.family for s in samples))


@torch.no_grad()
def greedy(model: Any, batch: Sequence[Sample], max_new_tokens: int) -> Tensor:
    """Generate greedy answers to samples of equal shape and return the new tokens, int64[B, N]."""
    inputs = batch_inputs(batch, device_of_inputs(model))
    output: Tensor = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    return output[:, inputs["input_ids"].shape[1] :]


def decoded(processor: Any, tokens: Tensor) -> list[str]:
    """Return the texts of tokens, int64[B, N]."""
    texts = processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return [text.strip() for text in texts]


def relative_average(scores: dict[str, float], original: dict[str, float]) -> float:
    """Return Rel. Avg.: the mean over families of the score relative to the original's.

    Families in which the original scores 0 are excluded; nan if none is left.
    """
    ratios = [scores[name] / value for name, value in original.items() if value > 0]
    return float(np.mean(ratios)) if ratios else float("nan")


def _score(text: str, item: Item) -> float:
    return score(text, item.answers, item.metric)
