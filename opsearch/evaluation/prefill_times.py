"""Prefill times of compared methods, each with the original's, written to prefill.json.

The file is written after every method, so that an interrupted comparison resumes. Times are valid
for one machine, one config of the model and one prompt; if any differs, all are measured anew.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from opsearch.evaluation.prefill_file import PrefillFile, PrefillTime, method_key, read_prefills
from opsearch.evaluation.reducers import Reducer, Reduction
from opsearch.files import write_text
from opsearch.models.digests import settings_digest
from opsearch.models.encoding import Sample, batch_inputs
from opsearch.policy.policy import Policy
from opsearch.progress import Tick
from opsearch.timing.clock import Spread
from opsearch.timing.generation import Side, alternated
from opsearch.timing.policy_latency import typical

_PAIRS = 7


def time_prefills(
    model: Any,
    policies: Sequence[Policy],
    reductions: Sequence[tuple[Reducer, Reduction]],
    samples: Sequence[Sample],
    *,
    machine: str,
    path: Path,
    progress: Tick,
) -> None:
    """Time the methods that the file lacks, on the typical sample at batch size 1.

    Args:
        model: The model.
        policies: Policies to time.
        reductions: Reductions to time, each with its reducer, on its reduction of the typical
            sample.
        samples: Samples to choose the typical one from.
        machine: Description of the machine.
        path: The file.
        progress: Called with the numbers of finished methods and of all.
    """
    sample = typical(samples)
    place = f"{machine}; model {settings_digest(model.config)[:12]}"
    known = read_prefills(path) if path.exists() else None
    if known is None or (known.place, known.item) != (place, sample.digest):
        known = PrefillFile(place=place, item=sample.digest, n_visual=sample.n_visual, times={})
    inputs = batch_inputs([sample], model.device)
    sides: list[tuple[Policy | Reduction, Side]] = [
        *((policy, Side(partial(policy.apply, model), inputs)) for policy in policies),
        *((each, _reduced(model, reducer, each, sample)) for reducer, each in reductions),
    ]
    for done, (method, side) in enumerate(sides, 1):
        key = method_key(method, sample.n_visual)
        if key not in known.times:
            known.times[key] = _timed(model, inputs, side)
            content = {**dict(known), "times": _plain(known.times)}
            write_text(path, json.dumps(content, indent=2) + "\n")
        progress(done, len(sides))


def _reduced(model: Any, reducer: Reducer, reduction: Reduction, sample: Sample) -> Side:
    """Return the model under a reducer, on the reduced prompt."""
    (small,) = reducer.reduced([sample], reduction.tokens)
    block = partial(reducer.applied, model, reduction.tokens)
    return Side(block, batch_inputs([small], model.device))


def _timed(model: Any, inputs: dict[str, Tensor], side: Side) -> PrefillTime:
    pairs = list(alternated(model, inputs, side, 1, _PAIRS))
    passes = [(pair.original, pair.policy) for pair in pairs]
    return PrefillTime(
        1e3 * Spread.of([original.prefill for original, _ in passes]).median,
        1e3 * Spread.of([pruned.prefill for _, pruned in passes]).median,
        Spread.of([pruned.prefill / original.prefill for original, pruned in passes]).median,
        1e3 * Spread.of([pruned.ranking for _, pruned in passes]).median,
    )


def _plain(times: dict[str, PrefillTime]) -> dict[str, Any]:
    return {key: dataclasses.asdict(time) for key, time in times.items()}
