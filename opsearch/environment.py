"""environment.json: where and how long a run measured, which nothing else in its folder says."""

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
from opsearch.run_folder import RunFolder
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
    """The file's content, None where no run has finished; RunFolderError when it is damaged."""
    if not folder.environment.exists():
        return None
    try:
        facts: dict[str, Any] = json.loads(folder.environment.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(
            f"{folder.environment} cannot be read ({error}); run `opsearch run` again"
        ) from error
    return facts
