"""`opsearch run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from opsearch.commands.cli.options import (
    Attention,
    Budgets,
    Data,
    Debug,
    Device,
    Dtype,
    Model,
    RayAddress,
    WorkerCount,
    asked_workers,
    err,
    out,
    was_typed,
)

if TYPE_CHECKING:
    from opsearch.runs.config import RunConfig


def run(
    context: typer.Context,
    model: Model = "demo",
    data: Data = None,
    samples: Annotated[int, typer.Option(help="Calibration samples.")] = 64,
    heldout: Annotated[int, typer.Option(help="Held-out samples of the final table.")] = 300,
    space: Annotated[str, typer.Option(help="What is searched over: {spaces}.")] = "dop",
    kv: Annotated[
        str, typer.Option(help="dop: keys and values leave with the queries (leaves) or stay.")
    ] = "leaves",
    stages: Annotated[
        int, typer.Option(min=1, max=3, help="stages: how often tokens are dropped, at most.")
    ] = 2,
    keep: Annotated[
        str | None,
        typer.Option(help="layers, operations: never pruned, e.g. 0,1:mlp: layer 0, MLP of 1."),
    ] = None,
    tie: Annotated[
        str | None, typer.Option(help="layers: q=kv for one bit for attention in each layer.")
    ] = None,
    n_v: Annotated[
        str, typer.Option(help="Shares of tokens to search: 16 or 8 usual ones, or .5,.25,.125.")
    ] = "16",
    ranker: Annotated[
        str | None,
        typer.Option(
            help="Before the decoder {rankers}; in stages also inside it {decoder_rankers}; with "
            "parameters 'vispruner(important=0.3)'; default: that of the model family."
        ),
    ] = None,
    budget: Budgets = ["30%"],  # noqa: B006 - typer reads the default, nobody changes it
    objective: Annotated[
        str | None,
        typer.Option(
            help="{objectives}; default: joint where it fits --effort, attention for recipes."
        ),
    ] = None,
    points: Annotated[
        int | None, typer.Option(help="additive: values measured per parameter; default: all.")
    ] = None,
    pairs: Annotated[
        str, typer.Option(help="pairwise: interactions of adjacent layers, all, or so many, drawn.")
    ] = "adjacent",
    positions: Annotated[int, typer.Option(help="Answer tokens compared.")] = 1,
    solver: Annotated[
        str | None,
        typer.Option(help="{solvers}; default: by the form of the objective."),
    ] = None,
    verify: Annotated[
        int, typer.Option(help="Measure so many of the proxy's best at a time, correct it, repeat.")
    ] = 0,
    evaluations: Annotated[
        int | None,
        typer.Option(
            help="Policies measured as they run, at most; default: optuna and --verify 150, local "
            "and greedy 1000."
        ),
    ] = None,
    effort: Annotated[float, typer.Option(help="Seconds that measuring joint may take.")] = 60.0,
    memory: Annotated[
        str | None,
        typer.Option(
            help="For the states of one pass, e.g. 8GB; default: 2GB on a CPU, half of what the "
            "weights leave on a GPU."
        ),
    ] = None,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    attention: Attention = "sdpa",
    seed: Annotated[int, typer.Option(help="Governs the samples and the solver.")] = 0,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Run folder; default: runs/MODEL.")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="run.yaml of an earlier run; other options override it.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be measured, and for how long.")
    ] = False,
    shape: Annotated[
        str | None, typer.Option(help="With --dry-run: of a checkpoint, e.g. llava-next-7b.")
    ] = None,
    workers: WorkerCount = None,
    ray_address: RayAddress = None,
    debug: Debug = False,
) -> None:
    """Search a policy within a budget, verify it, compare it with baselines, save it."""
    from opsearch.commands.cli.printing import print_dry_run, print_run

    asked = asked_workers(workers, ray_address)
    settings = _settings(context)
    if shape and not dry_run:
        raise typer.BadParameter("--shape goes with --dry-run: it has no weights to run")
    if dry_run:
        from opsearch.commands.dry_run import dry_run as plan

        return print_dry_run(plan(settings, shape, err), settings, out)
    from opsearch.commands.run import run as run_config

    print_run(run_config(settings, err, context.obj, asked), out)


def _settings(context: typer.Context) -> RunConfig:
    """The options as settings; with --config those of that file, and what was typed instead."""
    from opsearch.runs.config import RunConfig

    given = dict(context.params)
    for name in ("debug", "dry_run", "shape", "workers", "ray_address"):
        del given[name]
    config, n_v = given.pop("config"), given["n_v"]
    given["out"] = given.pop("out_folder") or Path("runs") / Path(given["model"]).name
    given["budget"] = tuple(given["budget"])
    given["n_v"] = n_v if n_v in ("16", "8") else tuple(part.strip() for part in n_v.split(","))
    if config is not None:
        typed = {name for name in context.params if was_typed(context, name)}
        typed |= {"out"} if "out_folder" in typed else set()
        changed = {name: value for name, value in given.items() if name in typed}
        given = RunConfig.load(config).model_dump() | changed
    return RunConfig.checked(**given)
