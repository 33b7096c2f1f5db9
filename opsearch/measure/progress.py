"""Progress through a measurement plan in FLOPs, updated after every layer of every chunk.

Workers measure several chunks at once; the finished layers of each of them count.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import TYPE_CHECKING

from opsearch.measure.planning.chunks import Chunk, MeasurementPlan

if TYPE_CHECKING:
    from opsearch.progress import Tick


class PlanProgress:
    """FLOPs done and in total.

    Args:
        plan: The chunks to measure.
        progress: Called with both numbers at every change.
    """

    def __init__(self, plan: MeasurementPlan, progress: Tick | None) -> None:
        self.done, self.total, self.shape = 0, plan.flops, plan.shape
        self._partial: dict[Chunk, int] = {}
        self._progress = progress or (lambda done, total: None)

    def layer_callback(self, chunk: Chunk) -> Callable[[int], None]:
        """Return a function to call with the index of each finished layer of the chunk.

        Finished layers count as partial work until `finish` counts the whole chunk.
        """
        cumulative = list(accumulate(chunk.layer_flops(self.shape)))

        def report(layer: int) -> None:
            self._partial[chunk] = cumulative[layer]
            self._report()

        return report

    def finish(self, chunk: Chunk) -> None:
        """Count the whole chunk, now measured and stored."""
        self.drop(chunk)
        self.done += sum(chunk.layer_flops(self.shape))
        self._report()

    def drop(self, chunk: Chunk) -> None:
        """Discard the partial work on a chunk."""
        self._partial.pop(chunk, None)

    def replace(self, chunk: Chunk, replacements: list[Chunk]) -> None:
        """Plan other chunks instead of this one.

        The total grows if they share less than the original chunk.
        """
        self.drop(chunk)
        work = [sum(each.layer_flops(self.shape)) for each in (chunk, *replacements)]
        self.total += sum(work[1:]) - work[0]

    def _report(self) -> None:
        self._progress(self.done + sum(self._partial.values()), self.total)
