"""Generated answers and scores of a model, original or under a policy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opsearch.adaptive.load import Method
from opsearch.adaptive.policy_set import PolicySet
from opsearch.data.item import METRICS, Item
from opsearch.errors import PATH, DataError, echo, shortened
from opsearch.evaluation.scoring import score
from opsearch.formatting import screen_repr
from opsearch.measure.storage.records import StoredAnswer
from opsearch.measure.storage.store import Store
from opsearch.models.answer_length import Length, length, token_limit
from opsearch.models.devices import device_of_inputs
from opsearch.models.encoding import Sample, batch_inputs, batches
from opsearch.policy.builders import identity
from opsearch.progress import Tick
from opsearch.report.cut_answers import describe_cut

MAX_TOKENS = 8192
"""Maximum number of positions of one batch, including those of the answers."""


@dataclass(frozen=True)
class Answers:
    """Answers to samples.

    Attributes:
        texts: The generated texts.
        scores: Scores between 0 and 1 by the metric of each sample, float64[S].
        families: Family of each sample.
        lengths: Length of each answer.
    """

    texts: tuple[str, ...]
    scores: NDArray[np.float64]
    families: tuple[str, ...]
    lengths: tuple[Length, ...] = ()

    __repr__ = screen_repr

    def by_family(self) -> dict[str, float]:
        """Return the mean score of each family, in order of appearance."""
        names = dict.fromkeys(self.families)
        family = np.array(self.families)
        return {name: float(self.scores[family == name].mean()) for name in names}


def answer(
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    policy: Method | None = None,
    store: Store | None = None,
    progress: Tick | None = None,
    answer_tokens: int | None = None,
) -> Answers:
    """Generate an answer to every sample greedily and score it.

    Args:
        model: The model.
        processor: Its processor.
        samples: Samples with answers.
        policy: Policy, or set of policies, to apply; None: the original.
        store: Store whose answers are reused, and to which new ones are written batch by batch.
        progress: Called with the numbers of answered samples and of all.
        answer_tokens: Maximum number of tokens per answer; None: by the accepted answers.

    Raises:
        DataError: A sample has no answer to compare with, or an unknown metric.
    """
    if isinstance(policy, PolicySet):
        keys = [policy.digest()] * len(samples)
    else:
        named = policy or identity(model.config.get_text_config().num_hidden_layers)
        of = {n: named.canonical(n) for n in {sample.n_visual for sample in samples}}
        keys = [of[sample.n_visual] for sample in samples]
    block = partial(policy.apply, model) if policy else nullcontext
    return answer_as(keys, block, model, processor, samples, store, progress, answer_tokens)


def answer_as(
    keys: Sequence[str],
    block: Callable[[], AbstractContextManager[Any]],
    model: Any,
    processor: Any,
    samples: Sequence[Sample],
    store: Store | None = None,
    progress: Tick | None = None,
    answer_tokens: int | None = None,
) -> Answers:
    """Generate and score answers as `answer` does, inside a context manager.

    Args:
        keys: Key under which each sample's answer is stored.
        block: Return a context manager that applies the method.
        model: The model.
        processor: Its processor.
        samples: Samples with answers.
        store: Store whose answers are reused, and to which new ones are written.
        progress: Called with the numbers of answered samples and of all.
        answer_tokens: Maximum number of tokens per answer; None: by the accepted answers.

    Raises:
        DataError: A sample has no answer to compare with, or an unknown metric.
    """
    check_answers([sample.item for sample in samples])
    limits = {s: token_limit(processor.tokenizer, s.item.answers, answer_tokens) for s in samples}
    key_of = dict(zip(samples, keys, strict=True))
    found = _stored(store, key_of, limits) if store else {}
    todo = [sample for sample in samples if sample not in found]
    done = len(samples) - len(todo)
    with block():
        for batch in _batches(todo, limits):
            new = {
                sample: _scored(key_of[sample], sample, *generated)
                for sample, generated in zip(
                    batch, _generate(model, processor, batch, limits), strict=True
                )
            }
            if store:
                store.add_answers(new.values())
            found |= new
            done += len(new)
            if progress:
                progress(done, len(samples))
    rows = [found[sample] for sample in samples]
    return Answers(
        texts=tuple(row.text for row in rows),
        scores=np.array([row.score for row in rows]),
        families=tuple(sample.item.family for sample in samples),
        lengths=tuple(Length(row.tokens, row.cut) for row in rows),
    )


def describe_cut_answers(answers: Mapping[str, Answers], option: str = "--answer-tokens") -> str:
    """Describe how many answers of each method were cut, as `describe_cut` does."""
    return describe_cut({name: each.lengths for name, each in answers.items()}, option)


def check_answers(items: Sequence[Item]) -> None:
    """Raise DataError unless every item has an answer to compare with, and a known metric."""
    unanswered = [item.id for item in items if not item.answers]
    if unanswered:
        raise DataError(
            f"sample {shortened(unanswered[0], PATH)} has no answer, so accuracy cannot be "
            f"computed (samples without answers: {len(unanswered)} of {len(items)}); add answers "
            "to the data, or leave these samples out"
        )
    for item in items:
        if item.metric not in METRICS:
            raise DataError(
                f"item {shortened(item.id, PATH)}: the metric {echo(item.metric)} is unknown; use "
                f"one of {', '.join(METRICS)}"
            )


def _stored(
    store: Store, key_of: Mapping[Sample, str], limits: Mapping[Sample, int]
) -> dict[Sample, StoredAnswer]:
    """Return the stored answers that generating within these limits would give again.

    They are scored again, and a changed score is stored: the rules of scoring may have changed.
    """
    stored = store.answers(key_of.values())
    found, changed = {}, []
    for sample, key in key_of.items():
        row = stored.get((key, sample.digest))
        if row is None or not _is_valid(row, limits[sample]):
            continue
        found[sample] = _scored(key, sample, row.text, Length(row.tokens, row.cut))
        if found[sample] != row:
            changed.append(found[sample])
    if changed:
        store.add_answers(changed)
    return found


def _is_valid(row: StoredAnswer, limit: int) -> bool:
    """Return whether generating up to `limit` tokens gives the stored answer."""
    return row.tokens == limit if row.cut else 0 < row.tokens <= limit


def _scored(key: str, sample: Sample, text: str, length: Length) -> StoredAnswer:
    points = score(text, sample.item.answers, sample.item.metric)
    return StoredAnswer(
        policy=key,
        item=sample.digest,
        text=text,
        score=points,
        tokens=length.tokens,
        cut=length.cut,
    )


def _batches(samples: Sequence[Sample], limits: Mapping[Sample, int]) -> Iterator[list[Sample]]:
    """Yield batches of samples of equal shape and similar limits."""
    for batch in batches(samples, MAX_TOKENS):
        ordered = sorted(batch, key=lambda sample: limits[sample])
        width = max(1, MAX_TOKENS // (sum(batch[0].shape) + limits[ordered[-1]]))
        for start in range(0, len(ordered), width):
            yield ordered[start : start + width]


def _generate(
    model: Any, processor: Any, batch: Sequence[Sample], limits: Mapping[Sample, int]
) -> list[tuple[str, Length]]:
    """Generate the text and the length of the answer to each sample, cut at its own limit."""
    rows = greedy(model, batch, max(limits[sample] for sample in batch)).tolist()
    ends = end_tokens(model)
    lengths = [length(row, limits[sample], ends) for row, sample in zip(rows, batch, strict=True)]
    own = [row[: each.tokens] for row, each in zip(rows, lengths, strict=True)]
    return list(zip(decoded(processor, own), lengths, strict=True))


@torch.no_grad()
def greedy(model: Any, batch: Sequence[Sample], max_new_tokens: int) -> Tensor:
    """Generate greedy answers to samples of equal shape and return the new tokens, int64[B, N]."""
    inputs = batch_inputs(batch, device_of_inputs(model))
    output: Tensor = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    return output[:, inputs["input_ids"].shape[1] :]


def end_tokens(model: Any) -> frozenset[int]:
    """Return the tokens that end an answer of the model."""
    ends = model.generation_config.eos_token_id
    return frozenset([ends] if isinstance(ends, int) else ends or ())


def decoded(processor: Any, tokens: Sequence[Sequence[int]]) -> list[str]:
    """Return the texts of rows of tokens."""
    texts = processor.tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return [text.strip() for text in texts]


def relative_average(scores: dict[str, float], original: dict[str, float]) -> float:
    """Return Rel. Avg.: the mean over families of the score relative to the original's.

    Families in which the original scores 0 are excluded; nan if none is left.
    """
    ratios = [scores[name] / value for name, value in original.items() if value > 0]
    return float(np.mean(ratios)) if ratios else float("nan")
