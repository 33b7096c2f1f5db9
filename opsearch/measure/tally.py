"""How much of a plan is done, in FLOPs, told after every layer of every chunk.

Workers have several chunks in hand at once; what is done of each counts.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

from opsearch.measure.chunks import Chunk, MeasurementPlan

Progress = Callable[[int, int], None]


class Tally:
    """FLOPs done and to do; `progress` is told of both."""

    def __init__(self, plan: MeasurementPlan, progress: Progress | None) -> None:
        self.done, self.total, self.shape = 0, plan.flops, plan.shape
        self._begun: dict[Chunk, int] = {}
        self._progress = progress or (lambda done, total: None)

    def of_layers(self, chunk: Chunk) -> Callable[[int], None]:
        """To be called with each layer of the chunk that is done; the chunk itself counts later."""
        behind = list(accumulate(chunk.layer_flops(self.shape)))

        def tell(layer: int) -> None:
            self._begun[chunk] = behind[layer]
            self._tell()

        return tell

    def finish(self, chunk: Chunk) -> None:
        """All of the chunk is done and written."""
        self.drop(chunk)
        self.done += sum(chunk.layer_flops(self.shape))
        self._tell()

    def drop(self, chunk: Chunk) -> None:
        """What was begun of the chunk is lost."""
        self._begun.pop(chunk, None)

    def replace(self, chunk: Chunk, others: list[Chunk]) -> None:
        """Others are to be done instead, which may share less: then there is more to do."""
        self.drop(chunk)
        work = [sum(each.layer_flops(self.shape)) for each in (chunk, *others)]
        self.total += sum(work[1:]) - work[0]

    def _tell(self) -> None:
        self._progress(self.done + sum(self._begun.values()), self.total)
