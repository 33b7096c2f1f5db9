"""Workers on Ray that measure chunks and report progress layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError

from opsearch.measure.chunks import Chunk, MeasurementPlan
from opsearch.measure.crew import RayWorkers, Say
from opsearch.measure.engine import ENGINE_VERSION
from opsearch.measure.queue import Queue, shared
from opsearch.measure.rows import Measurement
from opsearch.measure.tally import PlanProgress
from opsearch.measure.worker import Source, Worker

_LAYER_TIMEOUT = 0.5  # seconds to wait for workers to report their layer


class MeasureWorkers:
    """Workers that measure with one model."""

    def __init__(self, count: int, source: Source, say: Say) -> None:
        self._ray_workers: RayWorkers[Chunk] = RayWorkers(count, Worker, source, say)
        self.count = count

    def meet(self, fingerprint: str) -> None:
        """Wait for the first worker; all must have loaded the model with this fingerprint."""
        self._ray_workers.meet((fingerprint, ENGINE_VERSION))

    def share(self, plan: MeasurementPlan) -> MeasurementPlan:
        """Return the plan in chunks that keep all workers busy to the end."""
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
