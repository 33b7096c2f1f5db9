"""Jobs that wait for a worker: cut so that workers end together, handed out where they fit best.

A worker keeps what the original model said on its samples, or a task that it has loaded, so it gets
more of the same as long as there is any. A job whose worker was lost waits again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from heapq import heapreplace
from typing import Generic, Protocol, TypeVar

from opsearch.errors import OpsearchError
from opsearch.measure.chunks import MeasurementPlan

_PARTS = 2  # of each worker's share at least, as no two are equally fast
_IDLE = 1 / 16  # of its share: how long a worker may wait for the last one, if they were
_ATTEMPTS = 3


class Job(Protocol):
    """What a worker is given at once."""

    @property
    def place(self) -> Hashable:
        """What a worker keeps from it: other jobs there are done faster by the same one."""

    @property
    def content(self) -> str:
        """In words, for errors."""


J = TypeVar("J", bound=Job)


def shared(plan: MeasurementPlan, workers: int) -> MeasurementPlan:
    """The plan with its longest chunks first, cut by samples only until workers end together.

    A pass takes some time whatever its size, so more and smaller ones would cost more. A chunk
    that takes no longer than a worker may wait is never cut: no worker waits longer for it.
    """
    share = plan.flops / workers
    work = {chunk: sum(chunk.layer_flops(plan.shape)) for chunk in plan.chunks}
    while True:
        chunks = sorted(work, key=work.__getitem__, reverse=True)
        long = (chunk for chunk in chunks if work[chunk] > _IDLE * share)
        longest = next((chunk for chunk in long if len(chunk.samples) > 1), None)
        end = _last_end([work[chunk] for chunk in chunks], workers)
        even = longest and work[longest] <= share / _PARTS and end <= (1 + _IDLE) * share
        if longest is None or even:
            return replace(plan, chunks=tuple(chunks))
        del work[longest]
        work |= {half: sum(half.layer_flops(plan.shape)) for half in longest.halves()}


def _last_end(work: Iterable[int], workers: int) -> int:
    """When the last of equally fast workers ends, each taking the next as soon as it is free."""
    ends = [0] * workers
    for flops in work:
        heapreplace(ends, ends[0] + flops)
    return max(ends)


class Queue(Generic[J]):
    """Jobs that nobody is at, in their order; advice: what to do when workers are lost with one."""

    def __init__(
        self, jobs: Sequence[J], advice: str = "give less --memory or fewer --workers"
    ) -> None:
        self._waiting, self._advice = list(jobs), advice
        self._lost: Counter[J] = Counter()

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, mine: set[Hashable], others: set[Hashable]) -> J:
        """The next job for a worker that was at the places `mine`, where `others` were at theirs.

        Its own come first, then those where nobody was, then any.
        """

        def distance(job: J) -> int:
            return 0 if job.place in mine else 1 if job.place not in others else 2

        job = min(self._waiting, key=distance)
        self._waiting.remove(job)
        return job

    def put(self, jobs: Sequence[J]) -> None:
        """Jobs that come next."""
        self._waiting[:0] = jobs

    def put_back(self, job: J, reason: str) -> None:
        """A job whose worker was lost; OpsearchError after the third, which is no accident."""
        self._lost[job] += 1
        if self._lost[job] == _ATTEMPTS:
            raise OpsearchError(
                f"{_ATTEMPTS} workers were lost with the same {job.content} ({reason}); "
                f"{self._advice}, the same command goes on where it stopped"
            )
        self.put([job])
