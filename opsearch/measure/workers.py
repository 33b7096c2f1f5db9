"""Who measures: this process, or workers on a Ray of its own or on a cluster that it joins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from opsearch.errors import OpsearchError
from opsearch.measure.cluster import joined
from opsearch.measure.worker import Source

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
    say(f"joining the Ray at {workers.address}" if workers.address else "starting Ray")
    with joined(workers.count, workers.address):
        from opsearch.measure.pool import Pool, places

        pool = Pool(places(workers.count, source.device, say), source, say)
        try:
            yield pool
        finally:
            pool.close()
