"""Starts a Ray for one run or joins a cluster, without a word and without usage statistics."""

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
    # That a worker was lost is said by the pool; Ray would print it to the output as well.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",
    # What Ray will do one day anyway, and warns of until then.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_PATIENCE = 10.0  # seconds until a host that says nothing counts as absent


@contextmanager
def joined(cores: int | None, address: str | None) -> Iterator[None]:
    """Be connected to Ray: to the cluster at `address`, or to one of `cores` that ends with it.

    A process that is connected already stays so. Raises OpsearchError where there is no such
    cluster, or none that fits this Python and this Ray.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    if address is None:
        _keep_others_out()
    import ray

    if ray.is_initialized():
        yield
        return
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address:
            _knock(address)
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


def _knock(address: str) -> None:
    """Raise OSError where nobody answers at HOST:PORT: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host, int(port)), timeout=_PATIENCE).close()


def _keep_others_out() -> None:
    """A key for this Ray alone: its ports are open to the network, and it runs what it is sent.

    Ray reads the settings when it is imported.
    """
    if "RAY_AUTH_MODE" not in os.environ and "ray" not in sys.modules:
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
