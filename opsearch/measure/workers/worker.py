"""Worker process: loads the model once and measures the chunks that it receives.

It knows neither the store nor Ray. Its results depend on the chunk alone, so the chunk of a lost
worker can be measured by any other.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass

import torch

from opsearch.measure.planning.chunks import Chunk
from opsearch.measure.storage.records import Measurement
from opsearch.measure.storage.store import ENGINE_VERSION
from opsearch.measure.sweep.passes import Passes
from opsearch.measure.sweep.reused_memory import reused_memory
from opsearch.models.fingerprint import fingerprint
from opsearch.models.spec import ModelSpec
from opsearch.registry.failures import naming_parts


@dataclass(frozen=True)
class WorkerModel:
    """The model that a worker loads.

    Attributes:
        model: The model, and how its weights are loaded.
        positions: Answer tokens that are compared.
    """

    model: ModelSpec
    positions: int


class Worker:
    """A process with a model; a second thread calls `layer` while `measure` runs."""

    def __init__(self) -> None:
        self._passes: Passes | None = None
        self._layer = -1

    def load(self, source: WorkerModel) -> tuple[str, int]:
        """Load the model; return its fingerprint and the engine version for the driver's check."""
        model = source.model.load()
        self._passes = Passes(model, source.positions)
        # Exclude the model from garbage collection, which would take 0.2 s each time.
        gc.freeze()
        return fingerprint(model), ENGINE_VERSION

    def measure(self, chunk: Chunk, needs: frozenset[str]) -> list[Measurement]:
        """Return the measurements of the chunk; a model on a CPU uses one thread.

        Raises:
            ModelError: A logit is not finite.
            OutOfMemoryError: The states do not fit.
        """
        assert self._passes is not None  # load() comes first
        torch.set_num_threads(1)  # holds for this thread, not for the one that loaded
        try:
            # Here, because the traceback does not reach the process that asked.
            with reused_memory(), naming_parts():
                return self._passes.run(self._passes.rank(chunk, needs), self._on_layer)
        finally:
            self._layer = -1

    def layer(self) -> int:
        """Return the last finished layer of the current chunk, -1 before the first."""
        return self._layer

    def _on_layer(self, layer: int) -> None:
        self._layer = layer
