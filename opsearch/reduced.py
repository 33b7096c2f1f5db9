"""Measures a reduction: divergence from the original and answers, stored like those of policies.

The original runs on the sample as it is, the model under the reducer on the smaller one. There is
nothing to share between reductions, so each costs a forward of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from opsearch.answers import answer_as
from opsearch.measure.divergence import divergence
from opsearch.measure.engine import Engine
from opsearch.measure.reference import check_finite, make_reference
from opsearch.measure.samples import Sample, batch_inputs, batches
from opsearch.measure.store import Measurement
from opsearch.measure.tally import Progress
from opsearch.reducers import Reducer, Reduction

_MAX_TOKENS = 8192  # positions of one forward


def measure_reductions(
    engine: Engine,
    reducers: dict[str, Reducer],
    reductions: Sequence[Reduction],
    samples: Sequence[Sample],
    progress: Progress | None = None,
) -> None:
    """Store the divergence of each on every sample at the answer's first token."""
    for done, reduction in enumerate(reductions, 1):
        known = engine.store.get([reduction.key])
        todo = [s for s in samples if (reduction.key, s.digest) not in known]
        reducer = reducers[reduction.reducer]
        for batch in batches(todo, _MAX_TOKENS):
            engine.store.add(_measured(engine, reducer, reduction, batch))
        if progress:
            progress(done, len(reductions))


def answer_reductions(
    engine: Engine,
    processor: object,
    reducers: dict[str, Reducer],
    reductions: Sequence[Reduction],
    samples: Sequence[Sample],
) -> None:
    """Store what the model answers to every sample under each."""
    for reduction in reductions:
        reducer = reducers[reduction.reducer]
        small = reducer.reduced(samples, reduction.tokens)
        keys = [reduction.key] * len(small)
        block = reducer.applied(engine.model, reduction.tokens)
        answer_as(keys, block, engine.model, processor, small, engine.store)


@torch.no_grad()
def _measured(
    engine: Engine, reducer: Reducer, reduction: Reduction, samples: Sequence[Sample]
) -> list[Measurement]:
    """The divergences on samples of equal shape, which resizing may make different."""
    reference = make_reference(engine.model, engine.adapter, samples, (), positions=1)
    place = {sample.digest: row for row, sample in enumerate(samples)}
    found = []
    for batch in batches(reducer.reduced(samples, reduction.tokens), _MAX_TOKENS):
        with reducer.applied(engine.model, reduction.tokens):
            inputs = batch_inputs(batch, engine.model.device)
            logits = engine.model(**inputs, use_cache=False, logits_to_keep=1).logits
        check_finite(logits[:, None], batch, [reduction.name])
        rows = torch.tensor([place[sample.digest] for sample in batch], device=logits.device)
        told = divergence(reference.logits[rows], logits, reference.counted[rows])
        columns = (told.kl, told.reverse_kl, told.js, told.top1)
        numbers = torch.stack(columns, -1).tolist()
        found += [
            Measurement(reduction.key, sample.digest, *values)
            for sample, values in zip(batch, numbers, strict=True)
        ]
    return found
