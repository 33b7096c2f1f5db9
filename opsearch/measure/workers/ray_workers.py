"""Driver side of workers on Ray: dispatches jobs, collects results, replaces lost workers.

Ray neither restarts workers nor retries tasks. A lost worker is replaced by a new one, and its job
goes to the next free worker.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import ray
import torch
from ray.exceptions import ActorUnavailableError, RayError, RayTaskError

from opsearch.errors import PATH, ModelError, OpsearchError, echo
from opsearch.measure.planning.chunks import Chunk, MeasurementPlan
from opsearch.measure.progress import PlanProgress
from opsearch.measure.storage.records import Measurement
from opsearch.measure.storage.store import ENGINE_VERSION
from opsearch.measure.workers.queue import Job, Queue, shared
from opsearch.measure.workers.worker import Worker, WorkerModel
from opsearch.models.openmp import wait_settings
from opsearch.policy.ranker import require_installed

if TYPE_CHECKING:
    from opsearch.progress import Say

_POLL_SECONDS = 0.5  # interval of `on_poll`
_NOTICE_SECONDS = 60.0  # time without any worker until the user is notified
_LAYER_TIMEOUT = 0.5  # seconds to wait for workers to report their layer
_MAX_FAILED_STARTS = 3

J = TypeVar("J", bound=Job)


@dataclass(eq=False)
class WorkerHandle(Generic[J]):
    """A worker as the driver sees it.

    Attributes:
        actor: The Ray actor.
        ref: The pending result, None while the worker is idle.
        loading: The worker loads its model.
        job: The job in progress, None while idle or loading.
        stale: The pending result belongs to a call that ended early and is to be dropped.
        affinities: Affinities of the jobs that the worker has had.
    """

    actor: Any
    ref: Any
    loading: bool = True
    job: J | None = None
    stale: bool = False
    affinities: set[Hashable] = field(default_factory=set)


class _WorkerLostError(Exception):
    """A worker was lost; the message is the reason."""


class RayWorkers(Generic[J]):
    """Workers of one model, on the Ray cluster that this process is connected to.

    Args:
        count: Number of workers.
        worker: Their class. `load(source)` returns a description, equal for all workers.
        source: Passed to `load`; its `model` is a ModelSpec.
        say: Called with sentences for the user.
    """

    def __init__(self, count: int, worker: type, source: Any, say: Say) -> None:
        self._worker, self._source = worker, _resolved(source)
        self.count, self._say = count, say
        self.handles: list[WorkerHandle[J]] = [self._start_worker() for _ in range(count)]
        self._expected: Any = None
        self._failed_starts = 0

    def meet(self, expected: Any = None) -> Any:
        """Wait for the first worker and return its description.

        All workers must match `expected`, or the first worker if it is None.
        """
        self._expected = expected
        while all(handle.loading for handle in self.handles):
            with suppress(_WorkerLostError):
                self._result(self._wait_for_one(None))
        return self._expected

    def work(
        self,
        queue: Queue[J],
        start: Callable[[Any, J], Any],
        on_lost: Callable[[J], None] | None = None,
        split: Callable[[J], list[J]] | None = None,
        on_poll: Callable[[], None] | None = None,
    ) -> Iterator[tuple[J, Any]]:
        """Yield each job once with its result, in order of completion.

        Args:
            queue: The jobs.
            start: Submits a job to an actor and returns the pending result.
            on_lost: Called with each job whose worker was lost.
            split: Splits a job that ran out of memory; returns [job] if that is impossible.
            on_poll: Called twice a second.

        Raises:
            OpsearchError: Workers are lost repeatedly.
            Exception: Any error that a worker raises.
        """
        try:
            while self._dispatch(queue, start):
                handle = self._wait_for_one(on_poll)
                job, handle.job = handle.job, None
                result = None
                try:
                    result = self._result(handle)
                except torch.OutOfMemoryError:
                    smaller = split(job) if job and split else []
                    if len(smaller) < 2:
                        raise
                    queue.put(smaller)
                except _WorkerLostError as lost_error:
                    if job:
                        if on_lost:
                            on_lost(job)
                        queue.put_back(job, str(lost_error))
                if job and result is not None:
                    # Dispatch before the driver writes the result, so that no worker waits for it.
                    self._dispatch(queue, start)
                    yield job, result
        finally:
            for handle in self.handles:
                handle.stale = handle.stale or handle.job is not None
                handle.job = None

    def close(self) -> None:
        """End the workers."""
        for handle in self.handles:
            _kill(handle)

    def _start_worker(self) -> WorkerHandle[J]:
        gpus = 1 if self._source.model.device == "cuda" else 0
        remote = ray.remote(self._worker).options(
            num_cpus=1,
            num_gpus=gpus,
            max_concurrency=2,  # the second thread reports progress
            runtime_env={"env_vars": wait_settings()},
        )
        actor = remote.remote()
        return WorkerHandle(actor, actor.load.remote(self._source))

    def _dispatch(self, queue: Queue[J], start: Callable[[Any, J], Any]) -> bool:
        """Give each idle worker a job; return whether any job is pending or in progress."""
        for handle in self.handles:
            if handle.ref is None and len(queue):
                all_affinities = set[Hashable]().union(*(m.affinities for m in self.handles))
                handle.job = queue.take(handle.affinities, all_affinities)
                handle.affinities.add(handle.job.affinity)
                handle.ref = start(handle.actor, handle.job)
        return len(queue) > 0 or any(handle.job for handle in self.handles)

    def _wait_for_one(self, on_poll: Callable[[], None] | None) -> WorkerHandle[J]:
        """Return the first worker whose result is ready or that was lost."""
        by_ref = {handle.ref: handle for handle in self.handles if handle.ref is not None}
        waited = 0.0
        while True:
            done, _ = ray.wait(list(by_ref), timeout=_POLL_SECONDS)
            if done:
                return by_ref[done[0]]
            if on_poll:
                on_poll()
            waited += _POLL_SECONDS
            if waited == _NOTICE_SECONDS and all(handle.loading for handle in self.handles):
                self._say(
                    f"no worker is ready after {_NOTICE_SECONDS:.0f} s: the model is large or the "
                    "Ray cluster is full; still waiting"
                )

    def _result(self, handle: WorkerHandle[J]) -> Any:
        """Return a worker's result.

        Raises:
            _WorkerLostError: The worker was lost and has been replaced.
            Exception: Any error that the worker raised.
        """
        ref, handle.ref = handle.ref, None
        stale, handle.stale = handle.stale, False
        try:
            result = ray.get(ref)
        except RayTaskError as error:
            if stale:
                return None
            raise error.cause from error  # which has the traceback of the worker
        except RayError as error:
            self._replace(handle, _reason(error))
            raise _WorkerLostError(_reason(error)) from error
        if handle.loading:
            self._check(result)
            handle.loading, self._failed_starts = False, 0
        return result

    def _replace(self, handle: WorkerHandle[J], reason: str) -> None:
        self._failed_starts += handle.loading
        if self._failed_starts == _MAX_FAILED_STARTS:
            raise OpsearchError(
                f"{_MAX_FAILED_STARTS} workers were lost while they loaded the model ({reason}); "
                "give fewer --workers or more memory, and install the same opsearch on all machines"
            )
        self._say(f"a worker was lost ({reason}); a new one replaces it")
        _kill(handle)
        self.handles[self.handles.index(handle)] = self._start_worker()

    def _check(self, found: Any) -> None:
        if self._expected is None:
            self._expected = found
        if found != self._expected:
            raise ModelError(
                f"a worker loaded different files of {echo(self._source.model.name, PATH)} or runs "
                "another version of opsearch, torch or transformers than this process or the "
                "first worker; give all machines the same files and versions"
            )


def _resolved(source: Any) -> Any:
    """Return the source with an absolute path, since workers run in other folders."""
    spec = source.model
    name = spec.name
    if name != "demo" and Path(name).exists():
        name = str(Path(name).resolve())
    # Ray makes only the worker's own GPU visible.
    device = "cuda" if spec.device.startswith("cuda") else spec.device
    return replace(source, model=replace(spec, name=name, device=device))


def _kill(handle: WorkerHandle[Any]) -> None:
    with suppress(RayError):
        ray.kill(handle.actor)


def _reason(error: RayError) -> str:
    """Return Ray's reason in as few words as possible."""
    if isinstance(error, ActorUnavailableError):
        return "its process or its machine is gone"
    text = str(error)
    match = re.search(r"because (its [^.\n]+)", text)
    return match[1] if match else text.strip().splitlines()[0].rstrip(".")


class MeasureWorkers:
    """Workers that measure with one model."""

    def __init__(self, count: int, source: WorkerModel, say: Say) -> None:
        self._ray_workers: RayWorkers[Chunk] = RayWorkers(count, Worker, source, say)
        self.count = count

    def meet(self, fingerprint: str) -> None:
        """Wait for the first worker; all must have loaded the model with this fingerprint."""
        self._ray_workers.meet((fingerprint, ENGINE_VERSION))

    def share(self, plan: MeasurementPlan) -> MeasurementPlan:
        """Return the plan in chunks that keep all workers busy to the end.

        Raises:
            OpsearchError: A policy has a ranker that was registered in this process only.
        """
        policies = (each.policy for chunk in plan.chunks for each in chunk.policies)
        require_installed(spec for policy in policies for _, spec in policy.rankers)
        return shared(plan, self.count)

    def measure(
        self,
        chunks: Sequence[Chunk],
        needs: frozenset[str],
        progress: PlanProgress,
        split: Callable[[Chunk], list[Chunk]],
    ) -> Iterator[tuple[Chunk, list[Measurement]]]:
        """Yield each chunk once with its measurements, in order of completion.

        Args:
            chunks: The chunks.
            needs: Outputs of the vision tower that rankers read.
            progress: Updated layer by layer.
            split: Splits a chunk that ran out of memory; returns [chunk] if that is impossible.

        Raises:
            OpsearchError: Workers are lost repeatedly.
            Exception: Any error that a worker raises.
        """

        def start(actor: Any, chunk: Chunk) -> Any:
            return actor.measure.remote(chunk, needs)

        def on_poll() -> None:
            self._report_layers(progress)

        yield from self._ray_workers.work(Queue(chunks), start, progress.drop, split, on_poll)

    def close(self) -> None:
        """End the workers."""
        self._ray_workers.close()

    def _report_layers(self, progress: PlanProgress) -> None:
        busy = [(m.job, m.actor.layer.remote()) for m in self._ray_workers.handles if m.job]
        refs = [ref for _, ref in busy]
        ready = ray.wait(refs, num_returns=len(refs), timeout=_LAYER_TIMEOUT)[0] if refs else []
        for chunk, ref in busy:
            with suppress(RayError):  # RayWorkers finds lost workers by their pending results
                if ref in ready and (layer := ray.get(ref)) >= 0:
                    progress.layer_callback(chunk)(layer)
