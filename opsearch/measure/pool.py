"""Workers on Ray that measure: chunks cut for them, and their progress layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError

from opsearch.measure.chunks import Chunk, MeasurementPlan
from opsearch.measure.crew import Crew, Say
from opsearch.measure.engine import ENGINE_VERSION
from opsearch.measure.queue import Queue, shared
from opsearch.measure.rows import Measurement
from opsearch.measure.tally import Tally
from opsearch.measure.worker import Source, Worker

_PATIENCE = 0.5  # seconds until a worker that does not tell its layer is let be


class Pool:
    """Workers that measure with one model."""

    def __init__(self, count: int, source: Source, say: Say) -> None:
        self._crew: Crew[Chunk] = Crew(count, Worker, source, say)
        self.count = count

    def meet(self, fingerprint: str) -> None:
        """Wait for the first worker; this one and all others must have loaded the model of it."""
        self._crew.meet((fingerprint, ENGINE_VERSION))

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

        def start(actor: Any, chunk: Chunk) -> Any:
            return actor.measure.remote(chunk, needs)

        def glance() -> None:
            self._tell_layers(tally)

        yield from self._crew.work(Queue(chunks), start, tally.drop, halve, glance)

    def close(self) -> None:
        """End the workers."""
        self._crew.close()

    def _tell_layers(self, tally: Tally) -> None:
        busy = [(m.job, m.actor.layer.remote()) for m in self._crew.members if m.job]
        refs = [ref for _, ref in busy]
        known = ray.wait(refs, num_returns=len(refs), timeout=_PATIENCE)[0] if refs else []
        for chunk, ref in busy:
            with suppress(RayError):  # who is lost is seen by what it had in hand
                if ref in known and (layer := ray.get(ref)) >= 0:
                    tally.of_layers(chunk)(layer)
