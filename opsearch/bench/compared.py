"""prefill.json: what the prefills of compared policies took, each beside the original's.

The file is written after every policy, so that a comparison that was stopped goes on. Times hold
for one machine and one prompt: where either is another one, all are taken anew.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from opsearch.bench.pairs import Workload, timed_pairs
from opsearch.bench.prefill import typical
from opsearch.bench.spread import Spread
from opsearch.errors import RunFolderError
from opsearch.files import write_text
from opsearch.measure.samples import Sample, batch_inputs
from opsearch.policy import Policy

_PAIRS = 7


@dataclass(frozen=True)
class PrefillTime:
    """Medians over generations in alternation, ms.

    policy: decoder and lm_head up to the first token, with `ranking`, which is choosing the visual
    tokens; ratio: policy to original, pair by pair.
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
    samples: Sequence[Sample],
    place: str,
    path: Path,
    progress: Callable[[int, int], None],
) -> None:
    """Time what the file does not hold, on the typical sample, batch 1; place: the machine."""
    sample = typical(samples)
    known = _read(path) if path.exists() else None
    if known is None or (known.place, known.item) != (place, sample.digest):
        known = _File(place=place, item=sample.digest, n_visual=sample.n_visual, times={})
    work = Workload(batch_inputs([sample], model.device), 1, *sample.shape)
    for done, policy in enumerate(policies, 1):
        key = policy.canonical(sample.n_visual)
        if key not in known.times:
            known.times[key] = _timed(model, work, policy)
            content = {**dict(known), "times": _plain(known.times)}
            write_text(path, json.dumps(content, indent=2) + "\n")
        progress(done, len(policies))


def prefill_time(policy: Policy, path: Path) -> PrefillTime | None:
    """The time of a policy, None where it was not taken; RunFolderError for a damaged file."""
    if not path.exists():
        return None
    known = _read(path)
    return known.times.get(policy.canonical(known.n_visual))


def _timed(model: Any, work: Workload, policy: Policy) -> PrefillTime:
    pairs = list(timed_pairs(model, work, policy, 1, _PAIRS))
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
