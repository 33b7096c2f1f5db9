"""`opsearch run`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from opsearch.commands.cli.notes import say_loading
from opsearch.commands.cli.options import (
    MEASUREMENT,
    MODEL_AND_DATA,
    OUTPUT,
    SEARCH,
    AnswerTokens,
    Attention,
    Budgets,
    Debug,
    Device,
    Dtype,
    Json,
    Model,
    Quiet,
    RayAddress,
    Replace,
    RunData,
    WorkerCount,
    requested_workers,
    was_typed,
)
from opsearch.commands.cli.output import (
    err,
    give,
    out,
)

if TYPE_CHECKING:
    from opsearch.runs.config import RunConfig


def run(
    context: typer.Context,
    budget: Budgets = ["30%"],  # noqa: B006 - typer only reads the default
    space: Annotated[
        str | None,
        typer.Option(
            help="Space of policies: {spaces}; default: shares, or dop if an objective, a solver "
            "or a setting of another space is given.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help="Objective: {objectives}; default: measured KL (joint) if it fits --effort, else "
            "a proxy.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    solver: Annotated[
        str | None,
        typer.Option(
            help="Solver: {solvers}; default: by the form of the objective.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    ranker: Annotated[
        str | None,
        typer.Option(
            help="Ranker of the visual tokens: {rankers}, {decoder_rankers}; parameters in "
            "parentheses, e.g. 'vispruner(important=0.3)'; default: that of the model family.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    n_v: Annotated[
        str,
        typer.Option(
            help="Shares of visual tokens to search: 16 or 8 standard ones, or a list such as "
            ".5,.25,.125.",
            rich_help_panel=SEARCH,
        ),
    ] = "16",
    kv: Annotated[
        str,
        typer.Option(
            help="Space dop: prune keys and values together with the queries (leaves), or keep "
            "them in all layers (stays).",
            rich_help_panel=SEARCH,
        ),
    ] = "leaves",
    stages: Annotated[
        int,
        typer.Option(
            min=1,
            max=3,
            help="Space stages: maximum number of layers at which tokens are dropped.",
            rich_help_panel=SEARCH,
        ),
    ] = 2,
    keep: Annotated[
        str | None,
        typer.Option(
            help="Spaces layers and operations: operations that are never pruned, e.g. 0,1:mlp for "
            "layer 0 and the MLP of layer 1; default: none.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    tie: Annotated[
        str | None,
        typer.Option(
            help="Space layers: q=kv prunes queries, keys and values of a layer together; default: "
            "separately.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(
            help="Space operations: rising shares of the visual tokens that an operation can "
            "process, 1 the last, e.g. 1/8,1/4,1/2,1; none is always possible; default: 1/4,1.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    images: Annotated[
        str,
        typer.Option(
            help="Image settings to search among, as shares of the visual tokens that the "
            "processor makes by itself, e.g. 1,1/2,1/4; each is compared with the original at full "
            "size.",
            rich_help_panel=SEARCH,
        ),
    ] = "1",
    points: Annotated[
        int | None,
        typer.Option(
            help="Additive proxy: values to measure per parameter, the others are interpolated; "
            "default: all.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    pairs: Annotated[
        str,
        typer.Option(
            help="Pairwise proxy: pairs of operations to measure: adjacent (of adjacent layers), "
            "all, or a number of pairs drawn at random.",
            rich_help_panel=SEARCH,
        ),
    ] = "adjacent",
    verify: Annotated[
        int,
        typer.Option(
            help="Correct the proxy with true measurements: number of its best policies to measure "
            "per round; 0: off.",
            rich_help_panel=SEARCH,
        ),
    ] = 0,
    evaluations: Annotated[
        int | None,
        typer.Option(
            help="Maximum number of policies that the solver or --verify measures; default: 150 "
            "for --verify, else the solver's own.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    model: Model = "demo",
    data: RunData = None,
    samples: Annotated[
        int | None,
        typer.Option(
            help="Number of calibration samples; default: 1024 in space shares, else 64.",
            rich_help_panel=MODEL_AND_DATA,
        ),
    ] = None,
    heldout: Annotated[
        int,
        typer.Option(
            help="Number of held-out samples for the final comparison; none shares an image or a "
            "group with a calibration sample.",
            rich_help_panel=MODEL_AND_DATA,
        ),
    ] = 300,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    attention: Attention = "sdpa",
    seed: Annotated[
        int,
        typer.Option(
            help="Random seed of the samples and the solver.", rich_help_panel=MODEL_AND_DATA
        ),
    ] = 0,
    positions: Annotated[
        int,
        typer.Option(
            help="Number of answer tokens over which KL is averaged.", rich_help_panel=MEASUREMENT
        ),
    ] = 1,
    effort: Annotated[
        float | None,
        typer.Option(
            help="Maximum estimated time in seconds to measure the KL of all policies; beyond it "
            "the default objective is measured from coarse to fine or is a proxy. Default: 60 for "
            "the embedded model, more for larger ones, at most 3600.",
            rich_help_panel=MEASUREMENT,
        ),
    ] = None,
    complete: Annotated[
        bool,
        typer.Option(
            "--complete",
            help="Measure the KL of every policy within the budget on all samples, as fronts, "
            "other budgets and analyses need; default: a policy that cannot be the best is "
            "dropped early.",
            rich_help_panel=MEASUREMENT,
        ),
    ] = False,
    memory: Annotated[
        str | None,
        typer.Option(
            help="Memory for the states of one pass, e.g. 8GB; default: 2GB on a CPU, half of the "
            "memory that the weights leave free on a GPU.",
            rich_help_panel=MEASUREMENT,
        ),
    ] = None,
    answer_tokens: AnswerTokens = None,
    workers: WorkerCount = None,
    ray_address: RayAddress = None,
    out_folder: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Run folder; default: runs/MODEL. If it holds an answer of other settings, this "
            "one goes to a folder of its own in it, answers/NAME.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    replace: Replace = False,
    config: Annotated[
        Path | None,
        typer.Option(
            help="run.yaml of an earlier run, whose settings are used; options on the command line "
            "override them.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print the number of measurements and their estimated time, and stop.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    shape: Annotated[
        str | None,
        typer.Option(
            help="With --dry-run: checkpoint to estimate for without loading it, e.g. "
            "llava-next-7b, or a hub id of `opsearch list models`.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    adaptive: Annotated[
        int | None,
        typer.Option(
            help="Then choose a set of at most this many policies, 2 to 8, and a selector among "
            "them, as `opsearch adapt` does.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Search a policy within a budget, compare it with baselines, and save it."""
    from opsearch.commands.cli.as_json import dry_run_json, search_json
    from opsearch.commands.cli.printing import print_dry_run, print_run
    from opsearch.runs.setup import check_named

    processes = requested_workers(workers, ray_address)
    settings = _settings(context)
    if shape and not dry_run:
        raise typer.BadParameter(
            "--shape requires --dry-run, because a shape has no weights to run"
        )
    if dry_run:
        from opsearch.commands.dry_run import dry_run as plan

        planned = plan(settings, shape, err)
        return give(lambda: print_dry_run(planned, out), lambda: dry_run_json(planned))
    check_named(settings)
    say_loading()
    from opsearch.commands.run import run as run_config

    if adaptive is not None:
        from opsearch.commands.adapt import check_number
        from opsearch.problem.budget import Budget
        from opsearch.runs.adaptive import one_share

        check_number(adaptive, "--adaptive")
        one_share([Budget.parse(text) for text in settings.budget])
    result = run_config(settings, err, context.obj, processes, replace=replace)
    if adaptive is None:
        return give(lambda: print_run(result, out), lambda: search_json(result))
    from opsearch.commands.adapt import adapt
    from opsearch.commands.cli.print_adapted import adapted_json, print_adapted

    found = adapt(result.folder, policies=adaptive, console=err)

    def print_both() -> None:
        print_run(result, out)
        print_adapted(found, out)

    give(print_both, lambda: {**search_json(result), "adaptive": adapted_json(found)})


def _settings(context: typer.Context) -> RunConfig:
    """Return the settings of the options, which override those of --config."""
    from opsearch.runs.config import RunConfig, default_space
    from opsearch.runs.run_folder import RunFolder

    given = dict(context.params)
    for name in ("debug", "dry_run", "shape", "workers", "ray_address", "adaptive"):
        del given[name]
    replace = given.pop("replace")
    config = given.pop("config")
    if out_folder := given.pop("out_folder"):
        given["out"] = out_folder
    given["budget"] = tuple(given["budget"])
    if config is not None:
        typed = {name for name in context.params if was_typed(context, name)}
        typed |= {"out"} if "out_folder" in typed else set()
        changes = {name: value for name, value in given.items() if name in typed}
        loaded = RunConfig.load(config)
        if replace and "out" not in changes and (place := RunFolder(config.parent)).name:
            changes["out"] = place.path  # the answer itself, and not the first one of its run
        if loaded.searches_shares and {"space", "objective"} & typed:
            changes.setdefault("solver", None)  # no other space or objective has gradients
        return loaded.changed(**changes)
    given["space"] = given["space"] or default_space(given)
    return RunConfig.checked(**given)
