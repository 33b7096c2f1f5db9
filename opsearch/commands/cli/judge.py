"""Commands that say how good a policy is: eval, bench, compare, analyze."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from opsearch.commands.cli.options import (
    Budgets,
    Data,
    Debug,
    PolicyPath,
    RayAddress,
    RunAttention,
    RunDevice,
    RunDtype,
    RunModel,
    RunPath,
    WorkerCount,
    asked_workers,
    err,
    out,
    was_typed,
)
from opsearch.errors import OpsearchError


def evaluate(
    context: typer.Context,
    policy: PolicyPath,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Benchmarks by lmms-eval, e.g. textvqa,mme,pope; tasks of it, or FOLDER/TASK."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(help="With --tasks: only so many first documents of each.")
    ] = None,
    model: RunModel = None,
    data: Data = None,
    samples: Annotated[int, typer.Option(help="Items to answer.")] = 300,
    split: Annotated[
        str, typer.Option(help="Of the embedded tasks: train, calibration, held-out or test.")
    ] = "test",
    seed: Annotated[int, typer.Option(help="Which items of the embedded tasks.")] = 0,
    dtype: RunDtype = None,
    device: RunDevice = None,
    attention: RunAttention = None,
    workers: WorkerCount = None,
    ray_address: RayAddress = None,
    debug: Debug = False,
) -> None:
    """Answer items with the original and with the policy: accuracy per family and Rel. Avg."""
    loaded_as = {"model": model, "dtype": dtype, "device": device, "attention": attention}
    if tasks is not None:
        for name in ("data", "samples", "split", "seed"):
            if was_typed(context, name):
                raise OpsearchError(
                    f"--{name} does not go with --tasks, because a task has its data; leave it out"
                )
        asked = asked_workers(workers, ray_address)
        from opsearch.commands.cli.printing import print_evaluation
        from opsearch.evaluation.lmms.answerer import AnswererModel
        from opsearch.evaluation.lmms.evaluate import evaluate_tasks
        from opsearch.runs.config import policy_settings

        names = list(dict.fromkeys(name.strip() for name in tasks.split(",")))  # each counts once
        run = policy_settings(policy, **loaded_as)
        source = AnswererModel(run.model_spec, limit)
        return print_evaluation(evaluate_tasks(policy, names, source, err, asked), out)
    if limit is not None:
        raise OpsearchError(
            f"--limit goes with --tasks; --samples {limit} answers so many items without it"
        )
    if workers is not None or ray_address is not None:
        raise OpsearchError(
            "--workers and --ray-address go with --tasks, and without it one process answers; "
            "leave them out, or add --tasks"
        )
    from opsearch.commands.cli.printing import print_scores
    from opsearch.evaluation.evaluate import evaluate as evaluate_policy
    from opsearch.runs.config import policy_settings

    run = policy_settings(policy, **loaded_as)
    place = (run.dtype, run.device, run.attention)
    print_scores(evaluate_policy(policy, run.model, data, samples, split, seed, *place, err), out)


def bench(
    context: typer.Context,
    policy: Annotated[
        Path | None, typer.Argument(metavar="POLICY", help="Run folder or policy_config.json.")
    ] = None,
    peers: Annotated[
        bool, typer.Option("--peers", help="Time published rules for choosing tokens instead.")
    ] = False,
    model: RunModel = None,
    shape: Annotated[
        str | None,
        typer.Option(help="Random weights in the shape of a checkpoint, e.g. llava-next-7b."),
    ] = None,
    layers: Annotated[
        int | None, typer.Option(min=1, help="With --shape: only so many, the policy thinned.")
    ] = None,
    visual: Annotated[
        int | None, typer.Option(min=1, help="With --shape: visual tokens per prompt.")
    ] = None,
    text: Annotated[
        int | None, typer.Option(min=2, help="With --shape: other tokens per prompt.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Prompts per generation.")] = 1,
    device: RunDevice = None,
    dtype: RunDtype = None,
    attention: RunAttention = None,
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens per generation.")] = 17,
    repeats: Annotated[int, typer.Option(min=1, help="Interleaved pairs of generations.")] = 7,
    graphs: Annotated[
        bool, typer.Option("--graphs", help="Time the policy also as CUDA graphs, on a GPU.")
    ] = False,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="JSONL that gets a row after every pair.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Time the original against a policy: prefill, first token, decode, memory."""
    from opsearch.commands.cli.printing import print_latency, print_peers
    from opsearch.progress import Progress
    from opsearch.runs.config import policy_settings
    from opsearch.timing.bench import Setup, bench_peers
    from opsearch.timing.bench import bench as bench_policy

    _check_peers(context, policy, peers, graphs)
    loaded_as = {"model": model, "dtype": dtype, "device": device, "attention": attention}
    run = policy_settings(policy, **loaded_as)
    if graphs and not run.device.startswith("cuda"):
        raise OpsearchError(
            f"--graphs replays CUDA graphs, and --device {run.device} has none; give --device cuda "
            "or leave it out"
        )
    setup = Setup(
        model=run.model,
        shape=shape,
        layers=layers,
        visual=visual,
        text=text,
        batch=batch,
        device=run.device,
        dtype=run.dtype,
        attention=run.attention,
        new_tokens=new_tokens,
        repeats=repeats,
        graphs=graphs,
    )
    stages = Progress(err, 2 + graphs)
    if policy is not None:
        return print_latency(bench_policy(policy, setup, stages, out_file), out)
    print_peers(bench_peers(setup, stages, out_file), out)


def _check_peers(context: typer.Context, policy: Path | None, peers: bool, graphs: bool) -> None:
    """Raise OpsearchError unless a policy is timed, or the peers without what they do not take."""
    if (policy is not None) == peers:
        asked = "both a POLICY and --peers" if peers else "neither a POLICY nor --peers"
        raise OpsearchError(
            f"bench was given {asked} and times one of them; give a POLICY or --peers"
        )
    if peers and was_typed(context, "new_tokens"):
        raise OpsearchError(
            "--new-tokens does not go with --peers, which times prefills; leave it out"
        )
    if peers and graphs:
        raise OpsearchError(
            "--graphs does not go with --peers, whose rules are timed layer by layer; leave it out"
        )


def compare(
    run_folder: RunPath,
    budget: Budgets = ["15%", "20%", "30%", "50%"],  # noqa: B006 - as for run
    samples: Annotated[int, typer.Option(min=1, help="Items to judge on.")] = 300,
    effort: Annotated[
        float | None,
        typer.Option(
            help="Seconds for all of joint in a space, else coarse to fine; default: the run's."
        ),
    ] = None,
    space: Annotated[list[str], typer.Option(help="To search. Repeatable.")] = [  # noqa: B006
        "dop",
        "depth",
        "stages",
    ],
    ranker: Annotated[
        list[str] | None,
        typer.Option(
            help="One more that takes part, e.g. 'cdpruner(clip=FOLDER)'. Repeatable.",
        ),
    ] = None,
    times: Annotated[
        bool, typer.Option("--times", help="Also time each prefill beside the original's.")
    ] = False,
    workers: WorkerCount = None,
    ray_address: RayAddress = None,
    debug: Debug = False,
) -> None:
    """Compare searched policies and baselines at several budgets, on items of their own."""
    from opsearch.commands.analyze import analyze as analyze_runs
    from opsearch.commands.cli.printing import print_analysis, print_compared
    from opsearch.commands.compare import compare as compare_methods

    asked = asked_workers(workers, ray_address)
    given = (run_folder, budget, samples, effort, err, asked, times, space, ranker or ())
    compare_methods(*given)
    analysis, files = analyze_runs("pareto", [run_folder])
    print_compared(analysis.tables["pareto.csv"], out)
    print_analysis(analysis, files, out)


def analyze(
    kind: Annotated[
        str,
        typer.Argument(
            help="rank, curves, interactions, pareto, ablation, transfer, outcomes, rivals or "
            "tables."
        ),
    ],
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of runs.")],
    space: Annotated[
        str | None, typer.Option(help="Another space than the run's, where it was measured.")
    ] = None,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Where to write; default: the first run's folder.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Table, figure and words on what runs have stored; no model is loaded."""
    from opsearch.commands.analyze import analyze as analyze_runs
    from opsearch.commands.cli.printing import print_analysis

    print_analysis(*analyze_runs(kind, runs, space, out_folder), out)
