"""Chunks that wait for a worker: cut so that workers end together, handed out near their samples.

A worker keeps what the original model said on its samples, so it gets more chunks of the same ones
as long as there are any. A chunk whose worker was lost waits again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from opsearch.errors import OpsearchError
from opsearch.measure.chunks import Chunk, MeasurementPlan

_PARTS = 4  # of each worker's share, so that the last ones to finish are short
_ATTEMPTS = 3

Originals = tuple[str, ...]


def shared(plan: MeasurementPlan, workers: int) -> MeasurementPlan:
    """The plan with chunks cut by samples until each is a small part of a worker's share."""
    most = plan.flops / (workers * _PARTS)

    def cut(chunk: Chunk) -> Iterable[Chunk]:
        if len(chunk.samples) == 1 or replace(plan, chunks=(chunk,)).flops <= most:
            return [chunk]
        return [part for half in chunk.halves() for part in cut(half)]

    return replace(plan, chunks=tuple(part for chunk in plan.chunks for part in cut(chunk)))


def originals(chunk: Chunk) -> Originals:
    """The samples on which a worker runs the original for this chunk."""
    return tuple(sample.digest for sample in chunk.samples)


class Queue:
    """Chunks that nobody measures at the moment, in their order."""

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        self._waiting = list(chunks)
        self._lost: Counter[Chunk] = Counter()

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, mine: set[Originals], others: set[Originals]) -> Chunk:
        """The next chunk for a worker that ran the originals `mine`, where `others` ran theirs.

        Its own samples come first, then those that nobody has, then any.
        """

        def distance(chunk: Chunk) -> int:
            samples = originals(chunk)
            return 0 if samples in mine else 1 if samples not in others else 2

        chunk = min(self._waiting, key=distance)
        self._waiting.remove(chunk)
        return chunk

    def put(self, chunks: Sequence[Chunk]) -> None:
        """Chunks that come next."""
        self._waiting[:0] = chunks

    def put_back(self, chunk: Chunk, reason: str) -> None:
        """A chunk whose worker was lost; OpsearchError after the third, which is no accident."""
        self._lost[chunk] += 1
        if self._lost[chunk] == _ATTEMPTS:
            raise OpsearchError(
                f"{_ATTEMPTS} workers were lost with the same {len(chunk.policies)} policies on "
                f"{len(chunk.samples)} samples ({reason}); give less --memory or fewer --workers, "
                "the same command goes on where it stopped"
            )
        self.put([chunk])
