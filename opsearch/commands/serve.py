"""`opsearch serve`: vLLM's server of the OpenAI API under a policy."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from opsearch.errors import OpsearchError, echo
from opsearch.models.pretrained import resolve_name
from opsearch.models.pruned.checks import check_fits
from opsearch.policy.policy import Policy
from opsearch.runs.config import policy_settings
from opsearch.serving.served_policy import KEY, ServedPolicy
from opsearch.serving.supported import check_architecture, check_release

_OURS = ("--model", "--hf-overrides")
# The runner that the plug-in is written for, where vLLM has another one for GPUs.
_ENVIRONMENT = {"VLLM_USE_V2_MODEL_RUNNER": "0"}


def server_command(path: Path, model: str | None = None, options: Sequence[str] = ()) -> list[str]:
    """Return program and arguments of the server of a policy.

    Args:
        path: A run folder, one of its answers, or a policy's folder or file.
        model: Name of the model; None: the one that the policy was searched on.
        options: Options of vLLM's server.

    Raises:
        OpsearchError: The policy does not fit the model or cannot be served.
    """
    for option in options:
        name = option.partition("=")[0].partition(".")[0].replace("_", "-")
        if name in _OURS:
            raise OpsearchError(
                f"{echo(option)} is among vLLM's options, but opsearch passes {name} itself; "
                "leave it out, and give another model as --model before the --"
            )
    policy = Policy.from_pretrained(path)
    ServedPolicy(policy)
    spec = policy_settings(path, model=model or policy.provenance.get("model")).model_spec
    config = spec.load_config()
    check_fits(policy, config)
    check_architecture(config)
    folder = resolve_name(spec.name)
    named = () if folder == spec.name else ("--served-model-name", spec.name)
    overrides = json.dumps({KEY: str(path.resolve())})
    program = (sys.executable, "-m", "vllm.entrypoints.openai.api_server")
    return [*program, "--model", folder, *named, "--hf-overrides", overrides, *options]


def command_line(command: Sequence[str]) -> str:
    """Return a command with its environment as a shell takes it."""
    return shlex.join([*(f"{name}={value}" for name, value in _ENVIRONMENT.items()), *command])


def check_installed() -> None:
    """Raise OpsearchError unless a release of vLLM is installed that policies are served with."""
    if find_spec("vllm") is None:
        raise OpsearchError(
            "vLLM is not installed in this environment; pip install 'opsearch[vllm]'"
        )
    from vllm import __version__

    check_release(__version__)


def become(command: list[str]) -> NoReturn:
    """Replace this process by a server, so that signals reach it."""
    os.execve(command[0], command, {**os.environ, **_ENVIRONMENT})
