"""The folder of a run: its files, and a lock that keeps two runs out of it at once."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from opsearch.errors import RunFolderError
from opsearch.files import write_text
from opsearch.version import __version__

if TYPE_CHECKING:
    from opsearch.timing.policy_latency import TimedPrefill


class RunFolder:
    """Paths of a run's files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "run.yaml"
        self.measurements = path / "measurements.db"
        self.solution = path / "solution.json"
        self.front = path / "front.csv"
        self.comparison = path / "comparison.csv"
        self.policy_figure = path / "policy.svg"
        self.front_figure = path / "front.svg"
        self.latency = path / "latency.json"
        self.prefill = path / "prefill.json"
        self.environment = path / "environment.json"
        self.report = path / "report.html"

    @contextmanager
    def locked(self) -> Iterator[RunFolder]:
        """Hold the folder; RunFolderError when it cannot be written or another run holds it."""
        lock = FileLock(self.path / ".lock")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        except Timeout:
            raise RunFolderError(
                f"another opsearch process works in {self.path}; wait for it or choose another "
                "--out"
            ) from None
        except OSError as error:
            raise RunFolderError(
                f"{self.path} cannot be written ({error.strerror or error}); choose another --out"
            ) from error
        try:
            yield self
        finally:
            lock.release()


_PACKAGES = ("torch", "transformers", "numpy")


def save_environment(
    folder: RunFolder,
    device: str,
    seconds: Mapping[str, float],
    command: str | None,
    prefill: TimedPrefill | None = None,
) -> None:
    """Write the file.

    device: what the model ran on; seconds: of each stage; command: the line as typed, None for a
    run that was started from Python; prefill: predicted and real, where the budget was of time.
    """
    import torch

    accelerator = torch.cuda.get_device_name(device) if device.startswith("cuda") else ""
    facts: dict[str, Any] = {
        "command": command,
        "finished": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "seconds": {title: round(value, 2) for title, value in seconds.items()},
        "versions": {
            "opsearch": __version__,
            "Python": platform.python_version(),
            **{name: version(name) for name in _PACKAGES},
        },
        "machine": {
            "system": f"{platform.system()} {platform.machine()}",
            "cores": os.cpu_count(),
            "torch threads": torch.get_num_threads(),
            "device": f"{device} {accelerator}".rstrip(),
        },
    }
    if prefill is not None:
        facts["prefill_ms"] = dataclasses.asdict(prefill)
    write_text(folder.environment, json.dumps(facts, indent=2) + "\n")


def load_environment(folder: RunFolder) -> dict[str, Any] | None:
    """Return the file's content, or None if no run has finished.

    Raises:
        RunFolderError: The file is damaged.
    """
    if not folder.environment.exists():
        return None
    try:
        facts: dict[str, Any] = json.loads(folder.environment.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(
            f"{folder.environment} cannot be read ({error}); run `opsearch run` again"
        ) from error
    return facts
