"""Options and help texts that several commands share. Imports no heavy library.

Help texts name the available parts, including those of installed plug-ins.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from opsearch.commands.cli.output import JSON, QUIET

# Panels of the help of commands with many options.
SEARCH = "Search"
MODEL_AND_DATA = "Model and data"
MEASUREMENT = "Measurement"
OUTPUT = "Output"

Model = Annotated[
    str,
    typer.Option(
        help="The model: demo (embedded), a local folder, or a hub id.",
        rich_help_panel=MODEL_AND_DATA,
    ),
]
Data = Annotated[
    Path | None,
    typer.Option(
        help="JSONL or Parquet file, or folder with metadata, of images, questions and answers; "
        "default: the embedded tasks.",
        rich_help_panel=MODEL_AND_DATA,
    ),
]
RunData = Annotated[
    Path | None,
    typer.Option(
        help="JSONL or Parquet file, or folder with metadata, of images, questions and answers; or "
        "lmms:TASK for a task of lmms-eval; default: the embedded tasks.",
        rich_help_panel=MODEL_AND_DATA,
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        help="Precision of the weights: float32, bfloat16 or float16.",
        rich_help_panel=MODEL_AND_DATA,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        help="Device of the model: cpu, cuda, cuda:1, ..., or auto to use all GPUs.",
        rich_help_panel=MODEL_AND_DATA,
    ),
]
Attention = Annotated[
    str,
    typer.Option(
        help="Attention implementation: sdpa, eager or flash_attention_2.",
        rich_help_panel=MODEL_AND_DATA,
    ),
]
# Options of commands that load the model of a policy.
RunModel = Annotated[
    str | None,
    typer.Option(
        help="The model: demo (embedded), a local folder, or a hub id; default: that of the run.",
        rich_help_panel=MODEL_AND_DATA,
    ),
]
RunDtype = Annotated[
    str | None,
    typer.Option(
        help="Precision of the weights: float32, bfloat16 or float16; default: that of the run.",
        rich_help_panel=MODEL_AND_DATA,
    ),
]
RunDevice = Annotated[
    str | None,
    typer.Option(
        help="Device of the model: cpu, cuda, cuda:1, ..., or auto to use all GPUs; default: that "
        "of the run.",
        rich_help_panel=MODEL_AND_DATA,
    ),
]
RunAttention = Annotated[
    str | None,
    typer.Option(
        help="Attention implementation: sdpa, eager or flash_attention_2; default: that of the "
        "run.",
        rich_help_panel=MODEL_AND_DATA,
    ),
]
PolicyPath = Annotated[
    Path, typer.Argument(metavar="POLICY", help="Run folder or policy_config.json.")
]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder.")]
AnswerTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Maximum number of tokens per answer; default: by the length of the accepted answers.",
        rich_help_panel=MEASUREMENT,
    ),
]
Budgets = Annotated[
    list[str],
    typer.Option(
        help="Maximum cost: share of the original model's FLOPs (30%, -70% or 0.3x), FLOPs per "
        "sample (5.8T), KV cache (200MB or 30%kv), or prefill time (120ms). Repeatable.",
        rich_help_panel=SEARCH,
    ),
]
WorkerCount = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        help="Number of Ray worker processes that measure (needs opsearch\\[ray]); default: this "
        "process measures.",
        rich_help_panel=MEASUREMENT,
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(
        help="Ray cluster to measure on, HOST:PORT or auto; default number of workers: one per GPU "
        "or CPU core.",
        rich_help_panel=MEASUREMENT,
    ),
]
Replace = Annotated[
    bool,
    typer.Option(
        "--replace",
        help="Write over the answer that the folder holds, instead of beside it.",
        rich_help_panel=OUTPUT,
    ),
]
ReplaceFile = Annotated[bool, typer.Option("--replace", help="Write over an existing file.")]
OutFolder = Annotated[
    Path | None, typer.Option("--out", help="Folder for the result; default: the run folder.")
]
Quiet = Annotated[bool, QUIET]
Json = Annotated[bool, JSON]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def requested_workers(count: int | None, address: str | None) -> Any:
    """Return the requested workers, None if this process measures."""
    if count is None and address is None:
        return None
    from opsearch.measure.workers.cluster import Workers

    return Workers(count, address)


def was_typed(context: typer.Context, name: str) -> bool:
    """Return whether an option was given on the command line."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


_PLACEHOLDER = re.compile(r"\{(\w+)\}")


class CommandNamingParts(TyperCommand):
    """Command whose options may name parts in their help as `{solvers}` or another kind.

    The names are looked up when the help is shown, so that other commands start without them.
    """

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Fill the placeholders, then show the help."""
        parameters: list[Any] = self.params  # options and arguments, which have a help
        for parameter in parameters:
            parameter.help = parameter.help and with_part_names(parameter.help)
        super().format_help(ctx, formatter)


def with_part_names(text: str) -> str:
    """Return a help text in which each `{kind}` is replaced by the names of its parts.

    A kind is one of the registry, or `analyses`.
    """

    def listed(match: re.Match[str]) -> str:
        if match[1] == "analyses":
            from opsearch.commands.analyze import KINDS

            return ", ".join(KINDS)
        from opsearch.registry import names

        return ", ".join(names(match[1]))

    return _PLACEHOLDER.sub(listed, text)
