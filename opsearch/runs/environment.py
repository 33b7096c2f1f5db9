"""environment.json: the machine, versions and durations of a run."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from opsearch.errors import RunFolderError
from opsearch.files import write_text
from opsearch.runs.run_folder import RunFolder
from opsearch.version import __version__

if TYPE_CHECKING:
    from opsearch.timing.policy_latency import TimedPrefill

_PACKAGES = ("torch", "transformers", "numpy")


def save_environment(
    folder: RunFolder,
    device: str,
    seconds: Mapping[str, float],
    command: str | None,
    prefill: TimedPrefill | None = None,
) -> None:
    """Write environment.json.

    Args:
        folder: The run folder.
        device: Device of the model.
        seconds: Duration of each stage.
        command: The command line as typed; None for a run from Python.
        prefill: Predicted and measured prefill; None without a budget of time.
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
    """Return the content of environment.json, or None if no run has finished.

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
