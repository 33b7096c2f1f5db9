"""The driver's side of workers: hands out chunks, collects measurements, replaces who is lost.

Nothing is restarted or sent again behind its back: a worker that is gone for whatever reason is
replaced by a new one, and what it had in hand goes to whoever is free first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

from opsearch.errors import ModelError, OpsearchError
from opsearch.measure.chunks import Chunk, MeasurementPlan
from opsearch.measure.engine import ENGINE_VERSION
from opsearch.measure.queue import Originals, Queue, originals, shared
from opsearch.measure.rows import Measurement
from opsearch.measure.tally import Tally
from opsearch.measure.worker import Source, Worker

_GLANCE = 0.5  # seconds between looks at what workers are at
_PATIENCE = 60.0  # seconds without any worker until the user is told
_STARTS = 3

Say = Callable[[str], None]


@dataclass(eq=False)
class _Member:
    """A worker; ref: what it is at, None while it waits; chunk: None also while it loads.

    stale: what it is at was asked for by a call that ended early, and nobody wants it any more.
    """

    actor: Any
    ref: Any
    loading: bool = True
    chunk: Chunk | None = None
    stale: bool = False
    seen: set[Originals] = field(default_factory=set)


class _LostError(Exception):
    """A worker is gone, for this reason."""


def places(wanted: int | None, device: str, say: Say) -> int:
    """How many workers there will be: those wanted, and not more than there are cores or GPUs.

    Raises OpsearchError for a cluster that has none.
    """
    kind, unit = ("GPU", "GPUs") if device.startswith("cuda") else ("CPU", "cores")
    there = int(ray.cluster_resources().get(kind, 0))
    if not there:
        raise OpsearchError(
            f"the Ray cluster has no {unit} for --device {device}; give another --device or join "
            "a cluster that has some"
        )
    if wanted and wanted > there:
        say(f"{there} instead of {wanted} workers: the Ray cluster has {there} {unit}")
    return min(wanted or there, there)


class Pool:
    """Workers of one model, on the Ray that this process is connected to."""

    def __init__(self, count: int, source: Source, say: Say) -> None:
        self._source = _from_anywhere(source)
        self.count, self._say = count, say
        self._members = [self._hired() for _ in range(count)]
        self._expected: tuple[str, int] | None = None
        self._failed_starts = 0

    def meet(self, fingerprint: str) -> None:
        """Wait for the first worker; this one and all others must have loaded the model of it."""
        self._expected = (fingerprint, ENGINE_VERSION)
        while all(member.loading for member in self._members):
            with suppress(_LostError):
                self._result(self._awaited(None))

    def share(self, plan: MeasurementPlan) -> MeasurementPlan:
        """The plan in chunks that keep all workers busy to the end."""
        return shared(plan, self.count)

    def measure(
        self,
        chunks: Sequence[Chunk],
        needs: frozenset[str],
        tally: Tally,
        halve: Callable[[Chunk], list[Chunk]],
    ) -> Iterator[tuple[Chunk, list[Measurement]]]:
        """Each chunk once with its measurements, in the order in which they come in.

        halve: cuts a chunk for which a worker's memory ran out, into itself where that is
        impossible. Raises what a worker raises, and OpsearchError when workers are lost again and
        again.
        """
        queue = Queue(chunks)
        try:
            while self._hand_out(queue, needs):
                member = self._awaited(tally)
                chunk, member.chunk = member.chunk, None
                measured = None
                try:
                    measured = self._result(member)
                except torch.OutOfMemoryError:
                    halves = halve(chunk) if chunk else []
                    if len(halves) < 2:
                        raise
                    queue.put(halves)
                except _LostError as lost:
                    if chunk:
                        tally.drop(chunk)
                        queue.put_back(chunk, str(lost))
                if chunk and measured is not None:
                    # Before the driver writes: nobody has to wait for that.
                    self._hand_out(queue, needs)
                    yield chunk, measured
        finally:
            for member in self._members:
                member.stale = member.stale or member.chunk is not None
                member.chunk = None

    def close(self) -> None:
        """End the workers."""
        for member in self._members:
            _end(member)

    def _hired(self) -> _Member:
        gpus = 1 if self._source.device == "cuda" else 0
        # A second thread, which tells the layer.
        remote = ray.remote(Worker).options(num_cpus=1, num_gpus=gpus, max_concurrency=2)
        actor = remote.remote()
        return _Member(actor, actor.load.remote(self._source))

    def _hand_out(self, queue: Queue, needs: frozenset[str]) -> bool:
        """Give whoever waits a chunk; whether any chunk is waiting or in hand."""
        for member in self._members:
            if member.ref is None and len(queue):
                others = set[Originals]().union(*(m.seen for m in self._members))
                member.chunk = queue.take(member.seen, others)
                member.seen.add(originals(member.chunk))
                member.ref = member.actor.measure.remote(member.chunk, needs)
        return len(queue) > 0 or any(member.chunk for member in self._members)

    def _awaited(self, tally: Tally | None) -> _Member:
        """The first worker that is done with what it is at, or lost."""
        at = {member.ref: member for member in self._members if member.ref is not None}
        waited = 0.0
        while True:
            done, _ = ray.wait(list(at), timeout=_GLANCE)
            if done:
                return at[done[0]]
            if tally:
                self._tell_layers(tally)
            waited += _GLANCE
            if waited == _PATIENCE and all(member.loading for member in self._members):
                self._say(
                    f"no worker is ready after {_PATIENCE:.0f} s: the model is large or the Ray "
                    "cluster is full, going on to wait"
                )

    def _tell_layers(self, tally: Tally) -> None:
        busy = [(m.chunk, m.actor.layer.remote()) for m in self._members if m.chunk]
        refs = [ref for _, ref in busy]
        known = ray.wait(refs, num_returns=len(refs), timeout=_GLANCE)[0] if refs else []
        for chunk, ref in busy:
            with suppress(RayError):  # who is lost is seen by what it had in hand
                if ref in known and (layer := ray.get(ref)) >= 0:
                    tally.of_layers(chunk)(layer)

    def _result(self, member: _Member) -> Any:
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

    def _replace(self, member: _Member, reason: str) -> None:
        self._failed_starts += member.loading
        if self._failed_starts == _STARTS:
            raise OpsearchError(
                f"{_STARTS} workers were lost while they loaded the model ({reason}); give fewer "
                "--workers or more memory, and install the same opsearch on all machines"
            )
        self._say(f"a worker was lost ({reason}); another takes its place, nothing else is lost")
        _end(member)
        self._members[self._members.index(member)] = self._hired()

    def _check(self, found: tuple[str, int]) -> None:
        if found != self._expected:
            raise ModelError(
                f"a worker loaded another {self._source.model!r} or measures with another version "
                "of opsearch than this process; give all machines the same files and version"
            )


def _from_anywhere(source: Source) -> Source:
    """The source as a worker has to name it, which starts in another folder."""
    model = source.model
    if model != "demo" and Path(model).exists():
        model = str(Path(model).resolve())
    # Ray shows each worker its own GPU only.
    device = "cuda" if source.device.startswith("cuda") else source.device
    return replace(source, model=model, device=device)


def _end(member: _Member) -> None:
    with suppress(RayError):
        ray.kill(member.actor)


def _reason(error: RayError) -> str:
    """Ray's own words, as short as they can be."""
    if isinstance(error, ActorUnavailableError):
        return "its process or its machine is gone"
    text = str(error)
    because = re.search(r"because (its [^.\n]+)", text)
    return because[1] if because else text.strip().splitlines()[0].rstrip(".")
