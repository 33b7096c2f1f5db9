"""What several commands share: options, consoles, and who measures. Nothing heavy is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

# No markup: what data, policies and paths say is printed as it is.
out = Console(highlight=False, markup=False)
err = Console(stderr=True, highlight=False, markup=False)

Model = Annotated[str, typer.Option(help="demo, a local folder, or a hub id.")]
Data = Annotated[
    Path | None,
    typer.Option(
        help="JSONL or Parquet of image, question, answer, for run also lmms:TASK; default: "
        "embedded tasks."
    ),
]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, ...; auto: all that there are.")]
Attention = Annotated[str, typer.Option(help="sdpa, eager or flash_attention_2.")]
# Of a policy's model.
RunModel = Annotated[
    str | None, typer.Option(help="demo, a local folder, or a hub id; default: the run's.")
]
RunDtype = Annotated[
    str | None, typer.Option(help="float32, bfloat16 or float16; default: the run's.")
]
RunDevice = Annotated[str | None, typer.Option(help="cpu, cuda, ..., auto; default: the run's.")]
RunAttention = Annotated[
    str | None, typer.Option(help="sdpa, eager or flash_attention_2; default: the run's.")
]
PolicyPath = Annotated[
    Path, typer.Argument(metavar="POLICY", help="Run folder or policy_config.json.")
]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of an earlier run.")]
Budgets = Annotated[
    list[str],
    typer.Option(
        help="30%, -70%, 0.3x of the stock model; 5.8T FLOPs; 200MB or 30%kv; 120ms. Repeatable."
    ),
]
WorkerCount = Annotated[
    int | None,
    typer.Option(
        "--workers", min=1, help="Processes that measure, on a Ray of their own: opsearch\\[ray]."
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(help="Workers on a Ray cluster, HOST:PORT or auto; default: one per core or GPU."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def asked_workers(count: int | None, address: str | None) -> Any:
    """Who measures, as asked for; None: this process."""
    if count is None and address is None:
        return None
    from opsearch.measure.workers.cluster import Workers

    return Workers(count, address)


def was_typed(context: typer.Context, name: str) -> bool:
    """Whether an option was given, and not left at its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
