"""Who measures: this process, or workers on a Ray of its own or on a cluster that it joins."""

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
    from opsearch.measure.pool import Pool


@dataclass(frozen=True)
class Workers:
    """How many workers measure, each a process with a model of its own.

    count: None: one for each GPU or core of the cluster. address: of the Ray cluster to join, as
    HOST:PORT or auto; None: a Ray of this run's own. Raises OpsearchError where Ray is missing.
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
) -> Iterator[Pool | None]:
    """The workers, which load the model meanwhile; None where this process measures.

    They end with the block, however it ends.
    """
    if workers is None:
        yield None
        return
    with on_ray(workers, source.device, say) as count:
        from opsearch.measure.pool import Pool

        with closing(Pool(count, source, say)) as pool:
            yield pool


@contextmanager
def on_ray(workers: Workers, device: str, say: Callable[[str], None]) -> Iterator[int]:
    """Be connected to the Ray that was asked for; how many workers it has places for."""
    if device == AUTO:
        raise OpsearchError(
            f"each worker has a device of its own, and --device {AUTO} would give one all of them; "
            "leave out workers, or name a device, e.g. --device cuda"
        )
    say(f"joining the Ray at {workers.address}" if workers.address else "starting Ray")
    with joined(workers.count, workers.address):
        yield _places(workers.count, device, say)


def _places(wanted: int | None, device: str, say: Callable[[str], None]) -> int:
    """How many workers there will be: those wanted, and not more than there are cores or GPUs.

    Raises OpsearchError for a cluster that has none.
    """
    import ray

    kind, unit = ("GPU", "GPUs") if device.startswith("cuda") else ("CPU", "cores")
    there = int(ray.cluster_resources().get(kind, 0))
    if not there:
        raise OpsearchError(
            f"the Ray cluster has no {unit} for --device {device}; give another --device or join "
            "a cluster that has some"
        )
    if wanted and wanted > there:
        say(f"{there} instead of {wanted} workers: the Ray cluster has {there} {unit}")
    return min(wanted or there, there)
