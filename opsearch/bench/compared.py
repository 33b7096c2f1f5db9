"""prefill.json: what the prefills of compared methods took, each beside the original's.

The file is written after every method, so that a comparison that was stopped goes on. Times hold
for one machine and one prompt: where either is another one, all are taken anew.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from opsearch.bench.pairs import Side, alternated
from opsearch.bench.prefill import typical
from opsearch.bench.spread import Spread
from opsearch.errors import RunFolderError
from opsearch.files import write_text
from opsearch.measure.samples import Sample, batch_inputs
from opsearch.policy import Policy
from opsearch.reducers import Reducer, Reduction

_PAIRS = 7


@dataclass(frozen=True)
class PrefillTime:
    """Medians over generations in alternation, ms.

    policy: decoder and lm_head up to the first token, with `ranking`, which is choosing the visual
    tokens, next to nothing under a reducer; ratio: policy to original, pair by pair.
    """

    original: float
    policy: float
    ratio: float
    ranking: float


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    place: str
    item: str
    n_visual: int
    times: dict[str, PrefillTime]


def time_prefills(
    model: Any,
    policies: Sequence[Policy],
    reductions: Sequence[tuple[Reducer, Reduction]],
    samples: Sequence[Sample],
    place: str,
    path: Path,
    progress: Callable[[int, int], None],
) -> None:
    """Time what the file does not hold, on the typical sample, batch 1; place: the machine.

    reductions: each with its reducer, which runs on the sample that it makes of the typical one.
    """
    sample = typical(samples)
    known = _read(path) if path.exists() else None
    if known is None or (known.place, known.item) != (place, sample.digest):
        known = _File(place=place, item=sample.digest, n_visual=sample.n_visual, times={})
    inputs = batch_inputs([sample], model.device)
    sides: list[tuple[Policy | Reduction, Side]] = [
        *((policy, Side(partial(policy.apply, model), inputs)) for policy in policies),
        *((made, _reduced(model, reducer, made, sample)) for reducer, made in reductions),
    ]
    for done, (method, side) in enumerate(sides, 1):
        key = _key(method, sample.n_visual)
        if key not in known.times:
            known.times[key] = _timed(model, inputs, side)
            content = {**dict(known), "times": _plain(known.times)}
            write_text(path, json.dumps(content, indent=2) + "\n")
        progress(done, len(sides))


def prefill_time(method: Policy | Reduction, path: Path) -> PrefillTime | None:
    """The time of a method, None where it was not taken; RunFolderError for a damaged file."""
    if not path.exists():
        return None
    known = _read(path)
    return known.times.get(_key(method, known.n_visual))


def _key(method: Policy | Reduction, n_visual: int) -> str:
    return method.key if isinstance(method, Reduction) else method.canonical(n_visual)


def _reduced(model: Any, reducer: Reducer, reduction: Reduction, sample: Sample) -> Side:
    """The model under a reducer, on the smaller prompt."""
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


def _read(path: Path) -> _File:
    try:
        return _File.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = " ".join(str(error).split())
        raise RunFolderError(
            f"{path} cannot be read as prefill times ({reason}); remove it and compare again"
        ) from error
