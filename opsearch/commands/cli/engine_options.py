"""Options of commands that run vLLM in place of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer

from opsearch.commands.cli.options import was_typed
from opsearch.errors import OpsearchError

SERVING = "Serving"


class EngineName(StrEnum):
    """What runs the model."""

    TRANSFORMERS = "transformers"
    VLLM = "vllm"


EngineChoice = Annotated[
    EngineName,
    typer.Option(
        help="vllm: vLLM without and with the policy, as `opsearch serve` starts it.",
        rich_help_panel=SERVING,
    ),
]
EngineOptions = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[-- OPTIONS]",
        help="With --engine vllm: options of vLLM's server, e.g. -- --dtype bfloat16.",
    ),
]


def refuse_typed(context: typer.Context, names: Sequence[str]) -> None:
    """Raise OpsearchError for options that do not go with vLLM."""
    for name in names:
        if was_typed(context, name):
            raise OpsearchError(
                f"--{name.replace('_', '-')} does not go with --engine vllm; leave it out, and "
                "give options of vLLM after --, e.g. -- --dtype bfloat16"
            )


def refuse_engine_options(options: Sequence[str] | None) -> None:
    """Raise OpsearchError for options of vLLM where it does not run."""
    if options:
        raise OpsearchError(
            f"{options[0]!r} and what follows it are options for --engine vllm; add it, or leave "
            "them out"
        )
