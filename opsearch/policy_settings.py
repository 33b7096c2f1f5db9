"""How the model of a policy is loaded: as asked for, else as by the run in whose folder it is."""

from __future__ import annotations

from pathlib import Path

from opsearch.config import RunConfig
from opsearch.errors import PolicyError
from opsearch.policy.policy import Policy
from opsearch.run_folder import RunFolder


def policy_settings(
    path: Path | None,
    *,
    model: str | None = None,
    dtype: str | None = None,
    device: str | None = None,
    attention: str | None = None,
) -> RunConfig:
    """What was asked for, the rest as in the run.yaml beside a policy, by default without one.

    path: of a run folder or a policy's file, None: no policy. Raises PolicyError where the policy
    was searched on another model than that of the run.yaml, and OpsearchError.
    """
    asked = {"model": model, "dtype": dtype, "device": device, "attention": attention}
    given = {name: value for name, value in asked.items() if value is not None}
    if path is None or given == asked:
        return RunConfig.checked(**given)
    searched = Policy.from_pretrained(path).provenance.get("model")
    file = RunFolder(path if path.is_dir() else path.parent).config
    if not file.exists():
        return RunConfig.checked(**given)
    run = RunConfig.load(file)
    if model is None and searched not in (None, run.model):
        raise PolicyError(
            f"the policy was searched on {searched!r}, but {file} beside it is of a run on "
            f"{run.model!r}; give --model, --dtype, --device and --attention"
        )
    return RunConfig.checked(**run.model_dump() | given)
