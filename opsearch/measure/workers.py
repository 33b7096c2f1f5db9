"""Choice of workers: this process, a private Ray instance, or a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from opsearch.errors import OpsearchError
from opsearch.measure.cluster import joined
from opsearch.measure.worker import Source
from opsearch.runtime.load import AUTO

if TYPE_CHECKING:  # an optional package
    from opsearch.measure.pool import MeasureWorkers


@dataclass(frozen=True)
class Workers:
    """Workers requested by the user, each a process with a model of its own.

    Attributes:
        count: Number of workers; None: one per GPU or core of the cluster.
        address: Ray cluster to join, as HOST:PORT or auto; None: a private instance.

    Raises:
        OpsearchError: Ray is not installed.
    """

    count: int | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        if find_spec("ray") is None:
            asked = f"--workers {self.count}" if self.count else f"--ray-address {self.address}"
            raise OpsearchError(
                f"{asked} needs Ray, which is not installed; run: pip install 'opsearch[ray]'"
            )


@contextmanager
def started(
    workers: Workers | None, source: Source, say: Callable[[str], None]
) -> Iterator[MeasureWorkers | None]:
    """Start the workers, or yield None to measure in this process.

    The workers load the model in the background and end with the block.
    """
    if workers is None:
        yield None
        return
    with on_ray(workers, source.device, say) as count:
        from opsearch.measure.pool import MeasureWorkers

        with closing(MeasureWorkers(count, source, say)) as pool:
            yield pool


@contextmanager
def on_ray(workers: Workers, device: str, say: Callable[[str], None]) -> Iterator[int]:
    """Connect to the requested Ray and yield the number of workers it can run."""
    if device == AUTO:
        raise OpsearchError(
            f"each worker has a device of its own, and --device {AUTO} would give one all of them; "
            "leave out workers, or name a device, e.g. --device cuda"
        )
    say(f"joining the Ray at {workers.address}" if workers.address else "starting Ray")
    with joined(workers.count, workers.address):
        yield _worker_count(workers.count, device, say)


def _worker_count(requested: int | None, device: str, say: Callable[[str], None]) -> int:
    """Return the number of workers: as requested, but at most one per core or GPU.

    Raises:
        OpsearchError: The cluster has no such device.
    """
    import ray

    kind, unit = ("GPU", "GPUs") if device.startswith("cuda") else ("CPU", "cores")
    available = int(ray.cluster_resources().get(kind, 0))
    if not available:
        raise OpsearchError(
            f"the Ray cluster has no {unit} for --device {device}; give another --device or join "
            "a cluster that has some"
        )
    if requested and requested > available:
        say(f"{available} instead of {requested} workers: the Ray cluster has {available} {unit}")
    return min(requested or available, available)
