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
from contextlib import contextmanager

from opsearch.errors import OpsearchError

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
    try:
        if address:
            _check_reachable(address)
            ray.init(address, **quiet)
        else:
            ray.init("local", num_cpus=cores, include_dashboard=False, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        reason = (str(error) or repr(error)).strip().splitlines()[0].rstrip(".")
        raise OpsearchError(
            f"the Ray cluster {address!r} cannot be joined ({reason}); give the address that `ray "
            "start --head` printed, on a machine of that cluster"
            if address
            else f"Ray does not start ({reason}); leave --workers out to measure in this process"
        ) from error
    if threading.current_thread() is threading.main_thread():
        # Ray's own handler prints a stack trace; this one ends the run as Ctrl-C does.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
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
