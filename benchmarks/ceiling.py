"""Upper limit of the speed-up by two processes on this machine: equal work in one and in two.

The processes are plain, with one thread each, without Ray, a driver or a queue. Contention for
shared resources (caches, memory, the two threads of a core) shows in CPU seconds even on a busy
machine; in wall time it shows only on an idle one.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from multiprocessing import get_context
from multiprocessing.connection import Connection
from time import perf_counter, process_time
from typing import Any, NamedTuple

from opsearch.measure.planning.chunks import Chunk
from opsearch.measure.workers.worker import Worker, WorkerModel
from opsearch.timing.clock import Spread


class Seconds(NamedTuple):
    """Time of one process for all chunks."""

    wall: float
    cpu: float


def ceiling(
    source: WorkerModel, chunks: Sequence[Chunk], needs: frozenset[str], repeats: int
) -> dict[str, Any]:
    """Compare one process with two in alternation: speed-up in wall time, ratio of CPU seconds."""
    pairs = []
    with ExitStack() as stack:
        connections = [_started(stack, source, chunks, needs) for _ in range(2)]
        for connection in connections:  # loads the model and runs the originals
            connection.send(True)
            connection.recv()
        for repeat in range(repeats):
            (alone,) = _measured(connections[repeat % 2 :][:1])
            pairs.append((alone, _measured(connections)))
    walls = [2 * alone.wall / max(each.wall for each in both) for alone, both in pairs]
    cpus = [sum(each.cpu for each in both) / 2 / alone.cpu for alone, both in pairs]
    return {"pairs": repeats, "ratio": Spread.of(walls).row(), "cpu_ratio": Spread.of(cpus).row()}


def _started(
    stack: ExitStack, source: WorkerModel, chunks: Sequence[Chunk], needs: frozenset[str]
) -> Connection:
    """Start a process that measures on request, and return the connection to it."""
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, source, chunks, needs), daemon=True)
    process.start()
    stack.callback(process.join)
    stack.callback(here.send, False)
    return here


def _serve(
    connection: Connection, source: WorkerModel, chunks: Sequence[Chunk], needs: frozenset[str]
) -> None:
    worker = Worker()
    worker.load(source)
    while connection.recv():
        wall, cpu = perf_counter(), process_time()
        for chunk in chunks:
            worker.measure(chunk, needs)
        connection.send(Seconds(perf_counter() - wall, process_time() - cpu))


def _measured(connections: Sequence[Connection]) -> list[Seconds]:
    """Return the time of each process when all start at once."""
    for connection in connections:
        connection.send(True)
    return [connection.recv() for connection in connections]
