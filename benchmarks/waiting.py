"""Suite `waiting`: how threads that wait busily, or sleep, fare on an idle and on a busy machine.

A loop of small products, in turn with one thread, with two threads that wait busily (libgomp's
default), and with two that sleep while they wait, as the command line and workers of opsearch do.
Each is a process of its own, because libgomp reads its settings when torch is imported.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from benchmarks.rows import BenchmarkRow
from opsearch.timing.clock import Spread

_SETTINGS = {
    "one": {"OMP_NUM_THREADS": "1"},
    "two_busy": {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "300000"},
    "two_asleep": {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"},
}
_WIDTH = 128
_PRODUCTS = """
import sys, time, torch
matrix = torch.rand(int(sys.argv[1]), int(sys.argv[1]))
matrix @ matrix
start = time.perf_counter()
for _ in range(int(sys.argv[2])):
    matrix @ matrix
print(time.perf_counter() - start)
"""


def waiting(
    products: int = 1000, rounds: int = 5, others: Sequence[int] = (0, 1, 2)
) -> Iterator[BenchmarkRow]:
    """Yield a row per number of other processes that keep a core busy each.

    Seconds and their ratio to those of one thread in the same round, as [quartile, median,
    quartile]. `load` is the load average before the row; on an idle machine it is near 0 at first.
    """
    for count in others:
        load = os.getloadavg()[0]
        with ExitStack() as stack:
            for _ in range(count):
                _keep_busy(stack)
            seconds = [_round(products) for _ in range(rounds)]
        row: BenchmarkRow = {"others": count, "load": round(load, 1), "rounds": rounds}
        for name in _SETTINGS:
            row[f"{name}_s"] = Spread.of([each[name] for each in seconds]).row()
        for name in list(_SETTINGS)[1:]:
            row[f"{name}_ratio"] = Spread.of([each[name] / each["one"] for each in seconds]).row()
        yield row


def _keep_busy(stack: ExitStack) -> None:
    """Start a process that computes until the stack closes."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    stack.callback(process.wait)
    stack.callback(process.kill)


def _round(products: int) -> dict[str, float]:
    """Return the seconds of the loop with each setting."""
    inherited = {name: text for name, text in os.environ.items() if "OMP_" not in name}
    command = [sys.executable, "-c", _PRODUCTS, str(_WIDTH), str(products)]
    return {
        name: float(subprocess.check_output(command, env={**inherited, **settings}))
        for name, settings in _SETTINGS.items()
    }
