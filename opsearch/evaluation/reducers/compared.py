"""Reducers in a comparison: number of tokens within a budget, divergences and answers.

Results are stored like those of policies. The original runs once on the full sample for all
reductions; the model under a reducer runs on the reduced sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from opsearch.costs.base import SampleSize, stock_cost
from opsearch.evaluation.answers import MAX_TOKENS, Answers, answer_as
from opsearch.evaluation.contenders import MethodKey, budget_limit
from opsearch.evaluation.reducers import (
    Reducer,
    Reduction,
    largest_reduction,
    usable_reducers,
)
from opsearch.measure.engine import Engine
from opsearch.measure.storage.records import Measurement
from opsearch.measure.sweep.divergence import divergence
from opsearch.measure.sweep.original import Reference, check_finite, make_reference
from opsearch.models.devices import device_of_inputs
from opsearch.models.encoding import Sample, batch_inputs, batches
from opsearch.problem.budget import Budget
from opsearch.progress import Progress, Tick
from opsearch.runs.prepare import Prepared


def served_reducers(config: Any, prepared: Prepared, progress: Progress) -> dict[str, Reducer]:
    """Return the reducers that the model supports, and print why others are excluded."""
    if prepared.settings.positions > 1:
        progress.say(
            "pool and resize are not compared, because they are measured at one answer token only"
        )
        return {}
    found, refusals = usable_reducers(config, prepared.processor)
    for refusal in refusals:
        progress.say(refusal)
    return found


def fitted_reductions(
    budget: Budget, prepared: Prepared, reducers: dict[str, Reducer], progress: Progress
) -> dict[MethodKey, Reduction]:
    """Return each reducer with the largest number of tokens within a budget."""
    cost, limit, _ = budget_limit(budget, prepared)

    def fits(sizes: Sequence[SampleSize]) -> bool:
        return stock_cost(cost, sizes) <= limit

    found = {}
    for name, reducer in reducers.items():
        reduction = largest_reduction(name, reducer, prepared.calibration, fits)
        if reduction is None:
            progress.say(
                f"{name} is not compared at {budget.text}, because one token per image already "
                "exceeds the budget"
            )
        else:
            found[budget.text, name] = reduction
    return found


def measure_reductions(
    engine: Engine,
    reducers: dict[str, Reducer],
    reductions: Sequence[Reduction],
    samples: Sequence[Sample],
    progress: Tick | None = None,
) -> None:
    """Measure and store the divergence of each reduction on every sample."""
    known = engine.store.get([reduction.key for reduction in reductions])
    groups = batches(samples, MAX_TOKENS)
    for done, batch in enumerate(groups, 1):
        todo = [r for r in reductions if any((r.key, s.digest) not in known for s in batch)]
        if todo:
            reference = make_reference(engine.model, engine.family, batch, (), positions=1)
        for reduction in todo:
            reducer = reducers[reduction.reducer]
            engine.store.add(_measured(engine, reducer, reduction, batch, reference))
        if progress:
            progress(done, len(groups))


def answer_reductions(
    engine: Engine,
    processor: object,
    reducers: dict[str, Reducer],
    reductions: Sequence[Reduction],
    samples: Sequence[Sample],
    answer_tokens: int | None = None,
) -> list[Answers]:
    """Generate and store an answer to every sample under each reduction.

    Args:
        engine: The engine, with the model and the store.
        processor: The model's processor.
        reducers: Reducers by name.
        reductions: The reductions.
        samples: Samples with answers.
        answer_tokens: Maximum number of tokens per answer; None: by the accepted answers.
    """
    found = []
    for reduction in reductions:
        reducer = reducers[reduction.reducer]
        small = reducer.reduced(samples, reduction.tokens)
        keys = [reduction.key] * len(small)
        block = partial(reducer.applied, engine.model, reduction.tokens)
        found.append(
            answer_as(
                keys,
                block,
                engine.model,
                processor,
                small,
                engine.store,
                answer_tokens=answer_tokens,
            )
        )
    return found


@torch.no_grad()
def _measured(
    engine: Engine,
    reducer: Reducer,
    reduction: Reduction,
    samples: Sequence[Sample],
    reference: Reference,
) -> list[Measurement]:
    """Measure divergences on samples of equal shape; their reduced shapes may differ."""
    row_of = {sample.digest: row for row, sample in enumerate(samples)}
    found = []
    for batch in batches(reducer.reduced(samples, reduction.tokens), MAX_TOKENS):
        with reducer.applied(engine.model, reduction.tokens):
            inputs = batch_inputs(batch, device_of_inputs(engine.model))
            logits = engine.model(**inputs, use_cache=False, logits_to_keep=1).logits
        check_finite(logits[:, None], batch, [reduction.name])
        rows = torch.tensor([row_of[sample.digest] for sample in batch], device=logits.device)
        divergences = divergence(reference.logits[rows], logits, reference.counted[rows])
        columns = (divergences.kl, divergences.reverse_kl, divergences.js, divergences.top1)
        numbers = torch.stack(columns, -1).tolist()
        found += [
            Measurement(reduction.key, sample.digest, *values)
            for sample, values in zip(batch, numbers, strict=True)
        ]
    return found
