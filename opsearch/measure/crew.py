"""The driver's side of workers on Ray: hands out jobs, collects results, replaces who is lost.

Nothing is restarted or sent again behind its back: a worker that is gone for whatever reason is
replaced by a new one, and what it had in hand goes to whoever is free first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar

import ray
import torch
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

from opsearch.errors import ModelError, OpsearchError
from opsearch.measure.queue import Job, Queue

_GLANCE = 0.5  # seconds between looks at what workers are at
_PATIENCE = 60.0  # seconds without any worker until the user is told
_STARTS = 3

Say = Callable[[str], None]
J = TypeVar("J", bound=Job)


@dataclass(eq=False)
class Member(Generic[J]):
    """A worker; ref: what it is at, None while it waits; job: None also while it loads.

    stale: what it is at was asked for by a call that ended early, and nobody wants it any more.
    """

    actor: Any
    ref: Any
    loading: bool = True
    job: J | None = None
    stale: bool = False
    seen: set[Hashable] = field(default_factory=set)


class _LostError(Exception):
    """A worker is gone, for this reason."""


class Crew(Generic[J]):
    """Workers of one model, on the Ray that this process is connected to.

    worker: their class; `load(source)` of it returns what a worker is, in which all must agree.
    """

    def __init__(self, count: int, worker: type, source: Any, say: Say) -> None:
        self._worker, self._source = worker, _from_anywhere(source)
        self.count, self._say = count, say
        self.members: list[Member[J]] = [self._hired() for _ in range(count)]
        self._expected: Any = None
        self._failed_starts = 0

    def meet(self, expected: Any = None) -> Any:
        """Wait for the first worker and return what it is; all must be that, or `expected`."""
        self._expected = expected
        while all(member.loading for member in self.members):
            with suppress(_LostError):
                self._result(self._awaited(None))
        return self._expected

    def work(
        self,
        queue: Queue[J],
        start: Callable[[Any, J], Any],
        lost: Callable[[J], None] | None = None,
        parts: Callable[[J], list[J]] | None = None,
        glance: Callable[[], None] | None = None,
    ) -> Iterator[tuple[J, Any]]:
        """Each job once with its result, in the order in which they come in.

        start: gives a worker a job; lost: told of jobs whose worker is gone; parts: what a job for
        which memory ran out is cut into, itself where that is impossible; glance: called twice a
        second. Raises what a worker raises, and OpsearchError when workers are lost time and again.
        """
        try:
            while self._hand_out(queue, start):
                member = self._awaited(glance)
                job, member.job = member.job, None
                result = None
                try:
                    result = self._result(member)
                except torch.OutOfMemoryError:
                    smaller = parts(job) if job and parts else []
                    if len(smaller) < 2:
                        raise
                    queue.put(smaller)
                except _LostError as gone:
                    if job:
                        if lost:
                            lost(job)
                        queue.put_back(job, str(gone))
                if job and result is not None:
                    # Before the driver writes: nobody has to wait for that.
                    self._hand_out(queue, start)
                    yield job, result
        finally:
            for member in self.members:
                member.stale = member.stale or member.job is not None
                member.job = None

    def close(self) -> None:
        """End the workers."""
        for member in self.members:
            _end(member)

    def _hired(self) -> Member[J]:
        gpus = 1 if self._source.device == "cuda" else 0
        # A second thread, which tells the layer.
        remote = ray.remote(self._worker).options(num_cpus=1, num_gpus=gpus, max_concurrency=2)
        actor = remote.remote()
        return Member(actor, actor.load.remote(self._source))

    def _hand_out(self, queue: Queue[J], start: Callable[[Any, J], Any]) -> bool:
        """Give whoever waits a job; whether any job is waiting or in hand."""
        for member in self.members:
            if member.ref is None and len(queue):
                others = set[Hashable]().union(*(m.seen for m in self.members))
                member.job = queue.take(member.seen, others)
                member.seen.add(member.job.place)
                member.ref = start(member.actor, member.job)
        return len(queue) > 0 or any(member.job for member in self.members)

    def _awaited(self, glance: Callable[[], None] | None) -> Member[J]:
        """The first worker that is done with what it is at, or lost."""
        at = {member.ref: member for member in self.members if member.ref is not None}
        waited = 0.0
        while True:
            done, _ = ray.wait(list(at), timeout=_GLANCE)
            if done:
                return at[done[0]]
            if glance:
                glance()
            waited += _GLANCE
            if waited == _PATIENCE and all(member.loading for member in self.members):
                self._say(
                    f"no worker is ready after {_PATIENCE:.0f} s: the model is large or the Ray "
                    "cluster is full, going on to wait"
                )

    def _result(self, member: Member[J]) -> Any:
        """What a worker was at; raises what it raises, and _LostError when it was replaced."""
        ref, member.ref = member.ref, None
        stale, member.stale = member.stale, False
        try:
            result = ray.get(ref)
        except RayTaskError as error:
            if stale:
                return None
            raise error.cause from None
        except RayError as error:
            self._replace(member, _reason(error))
            raise _LostError(_reason(error)) from error
        if member.loading:
            self._check(result)
            member.loading, self._failed_starts = False, 0
        return result

    def _replace(self, member: Member[J], reason: str) -> None:
        self._failed_starts += member.loading
        if self._failed_starts == _STARTS:
            raise OpsearchError(
                f"{_STARTS} workers were lost while they loaded the model ({reason}); give fewer "
                "--workers or more memory, and install the same opsearch on all machines"
            )
        self._say(f"a worker was lost ({reason}); another takes its place, nothing else is lost")
        _end(member)
        self.members[self.members.index(member)] = self._hired()

    def _check(self, found: Any) -> None:
        if self._expected is None:
            self._expected = found
        if found != self._expected:
            raise ModelError(
                f"a worker loaded another {self._source.model!r} or runs with another version of "
                "opsearch than this process or the first worker; give all machines the same files "
                "and version"
            )


def _from_anywhere(source: Any) -> Any:
    """The source as a worker has to name it, which starts in another folder."""
    model = source.model
    if model != "demo" and Path(model).exists():
        model = str(Path(model).resolve())
    # Ray shows each worker its own GPU only.
    device = "cuda" if source.device.startswith("cuda") else source.device
    return replace(source, model=model, device=device)


def _end(member: Member[Any]) -> None:
    with suppress(RayError):
        ray.kill(member.actor)


def _reason(error: RayError) -> str:
    """Ray's own words, as short as they can be."""
    if isinstance(error, ActorUnavailableError):
        return "its process or its machine is gone"
    text = str(error)
    because = re.search(r"because (its [^.\n]+)", text)
    return because[1] if because else text.strip().splitlines()[0].rstrip(".")
