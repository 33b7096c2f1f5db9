"""How much of a plan is done, in FLOPs, told after every layer of every chunk.

Workers have several chunks in hand at once; what is done of each counts.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

from opsearch.costs.shape import Shape
from opsearch.measure.chunks import Chunk, MeasurementPlan
from opsearch.measure.work import layer_flops

Progress = Callable[[int, int], None]


class Tally:
    """FLOPs done and to do; `progress` is told of both."""

    def __init__(self, plan: MeasurementPlan, progress: Progress | None) -> None:
        self.done, self.total, self.shape = 0, plan.flops, plan.shape
        self._begun: dict[Chunk, int] = {}
        self._progress = progress or (lambda done, total: None)

    def of_layers(self, chunk: Chunk) -> Callable[[int], None]:
        """To be called with each layer of the chunk that is done; the chunk itself counts later."""
        behind = list(accumulate(_layers(chunk, self.shape)))

        def tell(layer: int) -> None:
            self._begun[chunk] = behind[layer]
            self._tell()

        return tell

    def finish(self, chunk: Chunk) -> None:
        """All of the chunk is done and written."""
        self.drop(chunk)
        self.done += sum(_layers(chunk, self.shape))
        self._tell()

    def drop(self, chunk: Chunk) -> None:
        """What was begun of the chunk is lost."""
        self._begun.pop(chunk, None)

    def split(self, chunk: Chunk, halves: list[Chunk]) -> None:
        """The chunk is to be done in halves, which share less: there is more to do."""
        self.drop(chunk)
        work = [sum(_layers(each, self.shape)) for each in (chunk, *halves)]
        self.total += sum(work[1:]) - work[0]

    def _tell(self) -> None:
        self._progress(self.done + sum(self._begun.values()), self.total)


def _layers(chunk: Chunk, shape: Shape) -> list[int]:
    return [flops * len(chunk.samples) for flops in layer_flops(chunk.trie, chunk.layout, shape)]
