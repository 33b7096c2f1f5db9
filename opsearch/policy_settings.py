"""How the model of a policy is loaded: as asked for, else as by the run that found the policy."""

from __future__ import annotations

from pathlib import Path

from opsearch.config import RunConfig
from opsearch.run_folder import RunFolder


def policy_settings(path: Path | None, **asked: str | None) -> RunConfig:
    """What was asked for, the rest as in the run.yaml beside a policy, by default without one.

    path: of a run folder or a policy's file. Raises OpsearchError.
    """
    given = {name: value for name, value in asked.items() if value is not None}
    if path is None:
        return RunConfig.checked(**given)
    file = RunFolder(path if path.is_dir() else path.parent).config
    run = RunConfig.load(file) if file.exists() else RunConfig.checked()
    return RunConfig.checked(**run.model_dump() | given)
