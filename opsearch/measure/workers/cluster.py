"""Connection to Ray: starts a private instance or joins a cluster, without output or telemetry."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING

from opsearch.errors import OpsearchError, echo
from opsearch.measure.workers.worker import WorkerModel
from opsearch.models.placement import AUTO

if TYPE_CHECKING:
    from opsearch.measure.workers.ray_workers import MeasureWorkers
    from opsearch.progress import Say

_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Lost workers are reported by RayWorkers; Ray would print them to the output as well.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",
    # The future default; without it Ray prints a warning.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_CONNECT_TIMEOUT = 10.0  # seconds


@contextmanager
def joined(cores: int | None, address: str | None) -> Iterator[None]:
    """Connect to Ray: to the cluster at `address`, or to a private instance with `cores` cores.

    The private instance ends with the block. A process that is already connected stays connected.

    Raises:
        OpsearchError: There is no such cluster, or it does not match this version of Python or Ray.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if address is None:
        _require_token()
    import ray

    if ray.is_initialized():
        yield
        return
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    earlier = signal.getsignal(signal.SIGTERM)
    try:
        if address:
            _check_reachable(address)
            ray.init(address, **quiet)
        else:
            ray.init("local", num_cpus=cores, include_dashboard=False, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error) or repr(error)).strip().splitlines()[0].rstrip(".")
        raise OpsearchError(
            f"the Ray cluster {echo(address)} cannot be joined ({reason}); give the address that "
            "`ray start --head` printed, on a machine of that cluster"
            if address
            else f"Ray does not start ({reason}); leave --workers out to measure in this process"
        ) from error
    if threading.current_thread() is threading.main_thread():
        # Ray's own handler prints a stack trace; the command line's, or else that of Ctrl-C, ends
        # the run in order.
        own = signal.default_int_handler if earlier in (signal.SIG_DFL, None) else earlier
        signal.signal(signal.SIGTERM, own)
    try:
        yield
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raise OSError if no host answers at HOST:PORT; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT).close()


def _require_token() -> None:
    """Protect the private instance with a random token.

    Its ports are open to the network and run any code they receive. Ray reads the settings at
    import.
    """
    if "RAY_AUTH_MODE" not in os.environ and "ray" not in sys.modules:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


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
            option = f"--workers {self.count}" if self.count else f"--ray-address {self.address}"
            raise OpsearchError(
                f"{option} needs Ray, which is not installed; run: pip install 'opsearch[ray]'"
            )


@contextmanager
def started(
    workers: Workers | None, source: WorkerModel, say: Say
) -> Iterator[MeasureWorkers | None]:
    """Start the workers, or yield None to measure in this process.

    The workers load the model in the background and end with the block.
    """
    if workers is None:
        yield None
        return
    with on_ray(workers, source.model.device, say) as count:
        from opsearch.measure.workers.ray_workers import MeasureWorkers

        with closing(MeasureWorkers(count, source, say)) as measure_workers:
            yield measure_workers


@contextmanager
def on_ray(workers: Workers, device: str, say: Say) -> Iterator[int]:
    """Connect to the requested Ray and yield the number of workers it can run."""
    if device == AUTO:
        raise OpsearchError(
            f"each worker has a device of its own, and --device {AUTO} would give one all of them; "
            "leave out workers, or name a device, e.g. --device cuda"
        )
    say(f"joining the Ray at {workers.address}" if workers.address else "starting Ray")
    with joined(workers.count, workers.address):
        yield _worker_count(workers.count, device, say)


def _worker_count(requested: int | None, device: str, say: Say) -> int:
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
