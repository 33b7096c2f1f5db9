"""What a worker does: it loads the model once and measures the chunks that it is sent.

It knows neither the store nor Ray, and what it computes depends on the chunk alone: a chunk of a
worker that was lost can be measured again by any other.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass

import torch

from opsearch.measure.chunks import Chunk
from opsearch.measure.engine import ENGINE_VERSION
from opsearch.measure.passes import Passes
from opsearch.measure.rows import Measurement
from opsearch.runtime.load import fingerprint, load_model


@dataclass(frozen=True)
class Source:
    """The model that a worker is to load, as for `load_model`, and the answer tokens compared."""

    model: str
    dtype: str
    device: str
    attention: str
    positions: int


class Worker:
    """A process with a model; `layer` is asked from a second thread while `measure` runs."""

    def __init__(self) -> None:
        self._passes: Passes | None = None
        self._layer = -1

    def load(self, source: Source) -> tuple[str, int]:
        """Load the model; what it is and which engine measures, to compare with the driver's."""
        model = load_model(source.model, source.dtype, source.device, source.attention)
        self._passes = Passes(model, source.positions)
        # What is there stays to the end: looking through it for garbage takes 0.2 s each time.
        gc.freeze()
        return fingerprint(model), ENGINE_VERSION

    def measure(self, chunk: Chunk, needs: frozenset[str]) -> list[Measurement]:
        """The chunk's measurements, in one thread where the model is on a CPU.

        Raises ModelError and OutOfMemoryError.
        """
        assert self._passes is not None  # load() comes first
        torch.set_num_threads(1)  # of this thread, and not of the one that loaded
        try:
            return self._passes.run(self._passes.rank(chunk, needs), self._done)
        finally:
            self._layer = -1

    def layer(self) -> int:
        """The last layer of the chunk in hand that is computed, -1 before the first."""
        return self._layer

    def _done(self, layer: int) -> None:
        self._layer = layer
