"""prefill.json: prefill times of compared methods, each with the original's.

The file is written after every method, so that an interrupted comparison resumes. Times are valid
for one machine and one prompt; if either differs, all are measured anew.
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

from opsearch.errors import RunFolderError
from opsearch.evaluation.reducers import Reducer, Reduction
from opsearch.files import write_text
from opsearch.models.encoding import Sample, batch_inputs
from opsearch.policy.policy import Policy
from opsearch.timing.generation import Side, Spread, alternated
from opsearch.timing.policy_latency import typical

_PAIRS = 7


@dataclass(frozen=True)
class PrefillTime:
    """Medians over generations of original and policy in alternation.

    Attributes:
        original: Decoder and lm_head of the original up to the first token, ms.
        policy: The same for the policy, including `ranking`, ms.
        ratio: Policy to original, pair by pair.
        ranking: Selection of the visual tokens, ms; about 0 for a reducer.
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
    *,
    machine: str,
    path: Path,
    progress: Callable[[int, int], None],
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
    known = _read(path) if path.exists() else None
    if known is None or (known.place, known.item) != (machine, sample.digest):
        known = _File(place=machine, item=sample.digest, n_visual=sample.n_visual, times={})
    inputs = batch_inputs([sample], model.device)
    sides: list[tuple[Policy | Reduction, Side]] = [
        *((policy, Side(partial(policy.apply, model), inputs)) for policy in policies),
        *((each, _reduced(model, reducer, each, sample)) for reducer, each in reductions),
    ]
    for done, (method, side) in enumerate(sides, 1):
        key = _key(method, sample.n_visual)
        if key not in known.times:
            known.times[key] = _timed(model, inputs, side)
            content = {**dict(known), "times": _plain(known.times)}
            write_text(path, json.dumps(content, indent=2) + "\n")
        progress(done, len(sides))


def prefill_time(method: Policy | Reduction, path: Path) -> PrefillTime | None:
    """Return the time of a method, None where the file lacks it.

    Raises:
        RunFolderError: The file is damaged.
    """
    if not path.exists():
        return None
    known = _read(path)
    return known.times.get(_key(method, known.n_visual))


def _key(method: Policy | Reduction, n_visual: int) -> str:
    return method.key if isinstance(method, Reduction) else method.canonical(n_visual)


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


def _read(path: Path) -> _File:
    try:
        return _File.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        reason = " ".join(str(error).split())
        raise RunFolderError(
            f"{path} cannot be read as prefill times ({reason}); remove it and compare again"
        ) from error
