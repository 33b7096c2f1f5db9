"""`opsearch eval --engine vllm`: scores and divergence of a served policy.

The engine without the policy answers first, and ends before the one with the policy starts.
"""

from __future__ import annotations

import asyncio
import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opsearch.commands.engine_bench import question
from opsearch.commands.serve import check_installed, check_options, served_model
from opsearch.evaluation.answers import Answers, decoded
from opsearch.evaluation.evaluate import Scores, unseen_items
from opsearch.evaluation.scoring import score
from opsearch.formatting import counted, screen_repr
from opsearch.models.answer_length import length, token_limit
from opsearch.models.encoding import Sample, encode
from opsearch.models.positions import check_answer_positions
from opsearch.progress import Progress, Tick
from opsearch.runs.run_folder import RunFolder
from opsearch.serving.engines import Answer, Engine, Question, set_up_environment

STAGES = 3
_AT_ONCE = 16  # requests whose answers are awaited together


@dataclass(frozen=True)
class ServedScores:
    """Answers of vLLM without and with a policy to the same samples.

    Attributes:
        scores: The answers, and their scores.
        kl: KL divergence of the next token behind each prompt, in nats, float64[S].
        reported: What the run of the policy measured on its held-out samples, by its name in
            comparison.csv; empty where there is no run.
    """

    scores: Scores
    kl: NDArray[np.float64]
    reported: dict[str, float]

    __repr__ = screen_repr


def evaluate_engine(
    path: Path,
    model: str | None,
    options: Sequence[str],
    progress: Progress,
    *,
    data: Path | None = None,
    samples: int = 300,
    split: str = "test",
    seed: int = 0,
    answer_tokens: int | None = None,
) -> ServedScores:
    """Answer with vLLM without and with the policy of a run folder or file.

    Samples and errors are those of `opsearch.evaluation.evaluate.evaluate`.

    Args:
        path: Run folder or policy file.
        model: Name of the model; None: the one that the policy was searched on.
        options: Options of vLLM's server, for both engines.
        progress: Shows the stages.
        data: Data file; None: the embedded tasks.
        samples: Maximum number of samples.
        split: Split of the embedded tasks.
        seed: Seed of the embedded tasks.
        answer_tokens: Maximum number of tokens per answer; None: by the accepted answers.
    """
    check_options(options)
    served = served_model(path, model)
    check_installed()
    set_up_environment()
    config, processor = served.spec.load_config(), served.spec.load_processor()
    kept, dropped = unseen_items(
        path, data=data, samples=samples, split=split, seed=seed, progress=progress
    )
    with progress.stage(f"encoding {counted(len(kept), 'sample')}") as tick:
        encoded = encode(kept, processor, config, lambda done: tick(done, len(kept)), progress.say)
    check_answer_positions(encoded, processor, config, answer_tokens)
    tokenizer = processor.tokenizer
    limits = [token_limit(tokenizer, each.item.answers, answer_tokens) for each in encoded]
    questions = [question(each, processor) for each in encoded]
    found = []
    for served_path, name in ((None, "without"), (path, "with")):
        start = partial(Engine, served.folder, served_path, options)
        with progress.stage(f"answering with vLLM {name} the policy") as tick:
            found.append(asyncio.run(_answers(start, questions, limits, tick)))
    stock, pruned = (_first_logprobs(each) for each in found)
    divergences = (np.exp(stock) * (stock - pruned)).sum(1)
    original, policy = (_scored(each, encoded, limits, processor) for each in found)
    return ServedScores(Scores(original, policy, dropped), divergences, _reported(path))


async def _answers(
    start: Callable[[], Engine], questions: Sequence[Question], limits: Sequence[int], tick: Tick
) -> list[Answer]:
    """Return an engine's answers with the log-probabilities at their first tokens."""
    engine, found = start(), list[Answer]()
    try:
        for first in range(0, len(questions), _AT_ONCE):
            part = slice(first, first + _AT_ONCE)
            pairs = zip(questions[part], limits[part], strict=True)
            found += await asyncio.gather(
                *(engine.answer(each, limit, exactly=False, logprobs=True) for each, limit in pairs)
            )
            tick(len(found), len(questions))
    finally:
        engine.close()
    return found


def _first_logprobs(answers: Sequence[Answer]) -> NDArray[np.float64]:
    """Return the log-probabilities at the first token of each answer, float64[S, V]."""
    return np.stack([answer.logprobs for answer in answers if answer.logprobs is not None])


def _scored(
    answers: Sequence[Answer], samples: Sequence[Sample], limits: Sequence[int], processor: Any
) -> Answers:
    """Return the texts and scores of answers."""
    items = [sample.item for sample in samples]
    texts = decoded(processor, [answer.tokens for answer in answers])
    ends = frozenset([processor.tokenizer.eos_token_id])
    pairs = zip(texts, items, strict=True)
    lengths = zip(answers, limits, strict=True)
    return Answers(
        texts=tuple(texts),
        scores=np.array([score(text, item.answers, item.metric) for text, item in pairs]),
        families=tuple(item.family for item in items),
        lengths=tuple(length(answer.tokens, limit, ends) for answer, limit in lengths),
    )


def _reported(path: Path) -> dict[str, float]:
    """Return held-out KL and Rel. Avg. of a run's policy, as its comparison has them."""
    file = RunFolder(path if path.is_dir() else path.parent).comparison
    if not file.exists():
        return {}
    with file.open(encoding="utf-8", newline="") as lines:
        rows = {row[""]: row["opsearch"] for row in csv.DictReader(lines)}
    names = ("KL held-out", "Rel. Avg., %")
    return {name: float(rows[name]) for name in names if rows.get(name)}
