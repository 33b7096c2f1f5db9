"""How torch's threads on a CPU wait for each other; importing this needs no torch.

By default a thread of OpenMP waits busily for some milliseconds. On a machine with other work it
then holds the core that the thread it waits for needs, and two threads are slower than one.
"""

from __future__ import annotations

import os

_VARIABLES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def wait_settings() -> dict[str, str]:
    """Return the variables of a process whose threads sleep while they wait, or the user's own.

    OpenMP reads them when torch is imported; a change later has no effect.
    """
    chosen = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    return chosen or {"OMP_WAIT_POLICY": "passive"}
