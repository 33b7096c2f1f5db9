"""`opsearch serve`: vLLM's server of the OpenAI API under a policy."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from opsearch.errors import OpsearchError, echo
from opsearch.models.pretrained import resolve_name
from opsearch.models.pruned.checks import check_fits
from opsearch.models.spec import ModelSpec
from opsearch.policy.policy import Policy
from opsearch.runs.config import policy_settings
from opsearch.serving.served_policy import CHECKS_KEY, KEY, ServedPolicy
from opsearch.serving.supported import check_architecture, check_release

_OURS = ("--model", "--hf-overrides")
# The runner that the plug-in is written for, where vLLM has another one for GPUs.
_ENVIRONMENT = {"VLLM_USE_V2_MODEL_RUNNER": "0"}


@dataclass(frozen=True)
class ServedModel:
    """A model that can be served under a policy.

    Attributes:
        policy: The policy.
        spec: The model by its name.
        folder: Name or folder by which vLLM loads it.
    """

    policy: Policy
    spec: ModelSpec
    folder: str


def served_model(path: Path, model: str | None) -> ServedModel:
    """Return the model that a policy is served with.

    Args:
        path: A run folder, one of its answers, or a policy's folder or file.
        model: Name of the model; None: the one that the policy was searched on.

    Raises:
        OpsearchError: The policy does not fit the model or cannot be served.
    """
    policy = Policy.from_pretrained(path)
    ServedPolicy(policy)
    spec = policy_settings(path, model=model or policy.provenance.get("model")).model_spec
    config = spec.load_config()
    check_fits(policy, config)
    check_architecture(config)
    return ServedModel(policy, spec, resolve_name(spec.name))


def check_options(options: Sequence[str]) -> None:
    """Raise OpsearchError if vLLM's options name the model, or what opsearch passes itself."""
    for option in options:
        name = option.partition("=")[0].partition(".")[0].replace("_", "-")
        if name in _OURS:
            raise OpsearchError(
                f"{echo(option)} is among vLLM's options, but opsearch passes {name} itself; "
                "leave it out, and give another model as --model before the --"
            )


def server_command(
    path: Path, model: str | None = None, options: Sequence[str] = (), checks: int = 1
) -> list[str]:
    """Return program and arguments of the server of a policy; see `served_model`.

    Args:
        path: A run folder, one of its answers, or a policy's folder or file.
        model: Name of the model; None: the one that the policy was searched on.
        options: Options of vLLM's server.
        checks: Pairs of random prompts that the server checks before the first request.
    """
    check_options(options)
    served = served_model(path, model)
    name = served.spec.name
    named = () if served.folder == name else ("--served-model-name", name)
    more = {CHECKS_KEY: checks} if checks > 1 else {}
    overrides = json.dumps({KEY: str(path.resolve()), **more})
    program = (sys.executable, "-m", "vllm.entrypoints.openai.api_server")
    return [*program, "--model", served.folder, *named, "--hf-overrides", overrides, *options]


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
