"""What this machine lets two processes reach at most: the same work in one, and in two at once.

Plain processes of one thread without Ray, a driver or a queue. What two cost each other by what
they share (caches, memory, the two threads of a core) shows in CPU seconds as well, whoever else
computes on the machine; seconds of the wall show it only where nobody does.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from multiprocessing import get_context
from multiprocessing.connection import Connection
from time import perf_counter, process_time
from typing import Any, NamedTuple

from opsearch.bench.spread import Spread
from opsearch.measure.chunks import Chunk
from opsearch.measure.worker import Source, Worker


class Seconds(NamedTuple):
    """What one process took for all chunks."""

    wall: float
    cpu: float


def ceiling(
    source: Source, chunks: Sequence[Chunk], needs: frozenset[str], repeats: int
) -> dict[str, Any]:
    """Twice the seconds of one process over those of two, and the CPU seconds of each, in turns."""
    pairs = []
    with ExitStack() as ends:
        lines = [_started(ends, source, chunks, needs) for _ in range(2)]
        for line in lines:  # loads the model and runs the originals
            line.send(True)
            line.recv()
        for repeat in range(repeats):
            (alone,) = _measured(lines[repeat % 2 :][:1])
            pairs.append((alone, _measured(lines)))
    walls = [2 * alone.wall / max(each.wall for each in both) for alone, both in pairs]
    cpus = [sum(each.cpu for each in both) / 2 / alone.cpu for alone, both in pairs]
    return {"pairs": repeats, "ratio": Spread.of(walls).row(), "cpu_ratio": Spread.of(cpus).row()}


def _started(
    ends: ExitStack, source: Source, chunks: Sequence[Chunk], needs: frozenset[str]
) -> Connection:
    """The line to a process that measures whenever it is told to."""
    spawning = get_context("spawn")
    here, there = spawning.Pipe()
    process = spawning.Process(target=_serve, args=(there, source, chunks, needs), daemon=True)
    process.start()
    ends.callback(process.join)
    ends.callback(here.send, False)
    return here


def _serve(
    line: Connection, source: Source, chunks: Sequence[Chunk], needs: frozenset[str]
) -> None:
    worker = Worker()
    worker.load(source)
    while line.recv():
        wall, cpu = perf_counter(), process_time()
        for chunk in chunks:
            worker.measure(chunk, needs)
        line.send(Seconds(perf_counter() - wall, process_time() - cpu))


def _measured(lines: Sequence[Connection]) -> list[Seconds]:
    """What each of these processes takes when all begin at once."""
    for line in lines:
        line.send(True)
    return [line.recv() for line in lines]
