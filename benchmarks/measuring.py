"""Small steps that the suites share: an engine, versions, memory, and processor time."""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from opsearch.measure.engine import Engine
from opsearch.measure.planning.memory import ON_CPU
from opsearch.measure.storage.store import Store

if TYPE_CHECKING:
    from opsearch.measure.workers.ray_workers import MeasureWorkers

T = TypeVar("T")


@contextmanager
def new_engine(
    model: Any, workers: MeasureWorkers | None = None, memory: int = ON_CPU
) -> Iterator[Engine]:
    """Open an engine with an empty store."""
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "m.db", {}) as store:
        yield Engine(model, store, memory=memory, workers=workers)


def versions() -> dict[str, str]:
    """Return the versions of the packages that times depend on."""
    return {name: version(name) for name in ("torch", "transformers", "numpy")}


def free_memory(device: str) -> None:
    """Free the memory of models that are no longer referenced."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def processor_seconds(work: Callable[[], T]) -> tuple[T, float]:
    """Return the result of a function, and the processor time that it took."""
    start = time.process_time()
    found = work()
    return found, time.process_time() - start


def fastest(timed: Callable[[], tuple[T, float]], repeats: int) -> tuple[T, float]:
    """Return the result and the seconds of the fastest of several calls."""
    return min((timed() for _ in range(repeats)), key=lambda found: found[1])
