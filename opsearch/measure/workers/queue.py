"""Queue of jobs for workers: splits chunks evenly and dispatches jobs by affinity.

A worker caches the original's outputs on its samples, or a task that it has loaded. It gets further
jobs of the same affinity as long as there are any. Jobs of lost workers return to the queue.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from heapq import heapreplace
from typing import Generic, Protocol, TypeVar

from opsearch.errors import OpsearchError
from opsearch.measure.planning.chunks import MeasurementPlan

_MIN_CHUNKS_PER_WORKER = 2  # since no two workers are equally fast
_MAX_IDLE = 1 / 16  # accepted idle time at the end, as a share of a worker's work
_ATTEMPTS = 3


class Job(Protocol):
    """A unit of work for one worker."""

    @property
    def affinity(self) -> Hashable:
        """Key of the state that a worker caches; it runs further jobs of equal key faster."""

    @property
    def content(self) -> str:
        """Description for error messages."""


J = TypeVar("J", bound=Job)


def shared(plan: MeasurementPlan, workers: int) -> MeasurementPlan:
    """Return the plan split for workers to end at about the same time, longest chunks first.

    Chunks are split by samples only, and only as far as needed, because every pass has a fixed
    overhead. Chunks shorter than the accepted idle time are never split.

    Args:
        plan: The plan.
        workers: Number of workers.
    """
    share = plan.flops / workers
    work = {chunk: sum(chunk.layer_flops(plan.shape)) for chunk in plan.chunks}
    while True:
        chunks = sorted(work, key=work.__getitem__, reverse=True)
        long = (chunk for chunk in chunks if work[chunk] > _MAX_IDLE * share)
        longest = next((chunk for chunk in long if len(chunk.samples) > 1), None)
        makespan = _makespan([work[chunk] for chunk in chunks], workers)
        even = (
            longest
            and work[longest] <= share / _MIN_CHUNKS_PER_WORKER
            and makespan <= (1 + _MAX_IDLE) * share
        )
        if longest is None or even:
            return replace(plan, chunks=tuple(chunks))
        del work[longest]
        work |= {half: sum(half.layer_flops(plan.shape)) for half in longest.halves()}


def _makespan(work: Iterable[int], workers: int) -> int:
    """Return when the last of equally fast workers ends if each takes the next job when free."""
    ends = [0] * workers
    for flops in work:
        heapreplace(ends, ends[0] + flops)
    return max(ends)


class Queue(Generic[J]):
    """Pending jobs, dispatched by affinity and otherwise first in, first out.

    Args:
        jobs: The jobs.
        advice: Appended to the error when a job repeatedly kills its worker.
    """

    def __init__(
        self, jobs: Sequence[J], advice: str = "give less --memory or fewer --workers"
    ) -> None:
        self._pending, self._advice = list(jobs), advice
        self._lost: Counter[J] = Counter()

    def __len__(self) -> int:
        return len(self._pending)

    def take(self, own: set[Hashable], others: set[Hashable]) -> J:
        """Remove and return the next job for a worker.

        Jobs of the worker's own affinities come first, then those of no worker, then any.

        Args:
            own: Affinities of the worker's earlier jobs.
            others: Affinities of all workers' earlier jobs.
        """

        def preference(job: J) -> int:
            return 0 if job.affinity in own else 1 if job.affinity not in others else 2

        job = min(self._pending, key=preference)
        self._pending.remove(job)
        return job

    def put(self, jobs: Sequence[J]) -> None:
        """Put jobs at the front."""
        self._pending[:0] = jobs

    def put_back(self, job: J, reason: str) -> None:
        """Put a job whose worker was lost at the front.

        Raises:
            OpsearchError: The job has lost its third worker.
        """
        self._lost[job] += 1
        if self._lost[job] == _ATTEMPTS:
            raise OpsearchError(
                f"{_ATTEMPTS} workers were lost with the same {job.content} ({reason}); "
                f"{self._advice}; the same command continues where it stopped"
            )
        self.put([job])
