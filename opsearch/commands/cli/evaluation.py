"""Commands that evaluate policies: eval, compare, analyze."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from opsearch.commands.cli.engine_options import (
    EngineChoice,
    EngineName,
    EngineOptions,
    refuse_engine_options,
    refuse_typed,
)
from opsearch.commands.cli.notes import say_loading
from opsearch.commands.cli.options import (
    MEASUREMENT,
    MODEL_AND_DATA,
    SEARCH,
    AnswerTokens,
    Budgets,
    Data,
    Debug,
    Json,
    PolicyPath,
    Quiet,
    RayAddress,
    RunAttention,
    RunDevice,
    RunDtype,
    RunModel,
    RunPath,
    WorkerCount,
    requested_workers,
    was_typed,
)
from opsearch.commands.cli.output import (
    err,
    give,
    out,
)
from opsearch.errors import OpsearchError
from opsearch.evaluation import BUDGETS, SPACES

if TYPE_CHECKING:
    from opsearch.commands.analyze import Analysis

_BENCHMARKS = "Benchmarks"
_NOT_WITH_VLLM = (
    "tasks", "limit", "dtype", "device", "attention", "workers", "ray_address",
)  # fmt: skip


def evaluate(
    context: typer.Context,
    policy: PolicyPath,
    options: EngineOptions = None,
    engine: EngineChoice = EngineName.TRANSFORMERS,
    tasks: Annotated[
        str | None,
        typer.Option(
            help="Benchmarks or tasks of lmms-eval, separated by commas, e.g. textvqa,mme,pope or "
            "FOLDER/TASK; default: the samples of --data.",
            rich_help_panel=_BENCHMARKS,
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            help="With --tasks: maximum number of documents per task; default: all.",
            rich_help_panel=_BENCHMARKS,
        ),
    ] = None,
    model: RunModel = None,
    data: Data = None,
    samples: Annotated[
        int,
        typer.Option(help="Maximum number of samples.", rich_help_panel=MODEL_AND_DATA),
    ] = 300,
    split: Annotated[
        str,
        typer.Option(
            help="Split of the embedded tasks: train, calibration, held-out or test.",
            rich_help_panel=MODEL_AND_DATA,
        ),
    ] = "test",
    seed: Annotated[
        int,
        typer.Option(
            help="Random seed of the samples of the embedded tasks.",
            rich_help_panel=MODEL_AND_DATA,
        ),
    ] = 0,
    answer_tokens: AnswerTokens = None,
    dtype: RunDtype = None,
    device: RunDevice = None,
    attention: RunAttention = None,
    workers: WorkerCount = None,
    ray_address: RayAddress = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure accuracy with the original and with a policy, per family and as Rel. Avg."""
    if engine is EngineName.VLLM:
        refuse_typed(context, _NOT_WITH_VLLM)
        say_loading()
        from opsearch.commands.cli.as_json import served_scores_json
        from opsearch.commands.cli.printing import print_served_scores
        from opsearch.commands.engine_eval import STAGES, evaluate_engine
        from opsearch.progress import Progress

        served = evaluate_engine(
            policy,
            model,
            options or (),
            Progress(err, STAGES),
            data=data,
            samples=samples,
            split=split,
            seed=seed,
            answer_tokens=answer_tokens,
        )
        return give(lambda: print_served_scores(served, out), lambda: served_scores_json(served))
    refuse_engine_options(options)
    loaded_as = {"model": model, "dtype": dtype, "device": device, "attention": attention}
    if tasks is not None:
        for name in ("data", "samples", "split", "seed"):
            if was_typed(context, name):
                raise OpsearchError(
                    f"--{name} has no effect with --tasks, whose tasks bring their own data; "
                    f"remove --{name}"
                )
        if answer_tokens is not None:
            raise OpsearchError(
                f"--answer-tokens {answer_tokens} has no effect with --tasks, whose tasks set the "
                "length of answers; remove --answer-tokens"
            )
        processes = requested_workers(workers, ray_address)
        say_loading()
        from opsearch.commands.cli.as_json import evaluation_json
        from opsearch.commands.cli.print_evaluation import print_evaluation
        from opsearch.evaluation.lmms.answerer import AnswererModel
        from opsearch.evaluation.lmms.evaluate import evaluate_tasks
        from opsearch.runs.config import policy_settings

        names = list(dict.fromkeys(name.strip() for name in tasks.split(",")))  # each counts once
        run = policy_settings(policy, **loaded_as)
        source = AnswererModel(run.model_spec, limit)
        found = evaluate_tasks(policy, names, source, err, processes)
        return give(lambda: print_evaluation(found, out), lambda: evaluation_json(found))
    if limit is not None:
        raise OpsearchError(f"--limit {limit} requires --tasks; without it, use --samples {limit}")
    if workers is not None or ray_address is not None:
        raise OpsearchError(
            "--workers and --ray-address require --tasks, because other samples are answered by "
            "one process; remove them or add --tasks"
        )
    say_loading()
    from opsearch.commands.cli.as_json import scores_json
    from opsearch.commands.cli.printing import print_scores
    from opsearch.evaluation.evaluate import evaluate as evaluate_policy
    from opsearch.runs.config import policy_settings

    run = policy_settings(policy, **loaded_as)
    scores = evaluate_policy(
        policy,
        run.model_spec,
        data=data,
        samples=samples,
        split=split,
        seed=seed,
        answer_tokens=answer_tokens,
        console=err,
    )
    give(lambda: print_scores(scores, out), lambda: scores_json(scores))


def compare(
    run_folder: RunPath,
    budget: Budgets = [*BUDGETS],  # noqa: B006 - as for run
    samples: Annotated[
        int,
        typer.Option(min=1, help="Maximum number of test samples.", rich_help_panel=MODEL_AND_DATA),
    ] = 300,
    effort: Annotated[
        float | None,
        typer.Option(
            help="Estimated seconds that measuring the KL of all policies of a space may take; "
            "beyond that it is measured from coarse to fine; default: that of the run.",
            rich_help_panel=MEASUREMENT,
        ),
    ] = None,
    space: Annotated[
        list[str],
        typer.Option(help="Space to search: {spaces}. Repeatable.", rich_help_panel=SEARCH),
    ] = [*SPACES],  # noqa: B006
    ranker: Annotated[
        list[str] | None,
        typer.Option(
            help="Additional ranker to compare, e.g. 'cdpruner(clip=FOLDER)'. Repeatable.",
            rich_help_panel=SEARCH,
        ),
    ] = None,
    times: Annotated[
        bool,
        typer.Option(
            "--times",
            help="Also measure the prefill time of every method and of the original.",
            rich_help_panel=MEASUREMENT,
        ),
    ] = False,
    draws: Annotated[
        int | None,
        typer.Option(
            help="Repeat all choices on this many draws of the calibration samples, and report "
            "mean, spread and intervals over draws and test samples; default: the run's samples.",
            rich_help_panel=MODEL_AND_DATA,
        ),
    ] = None,
    workers: WorkerCount = None,
    ray_address: RayAddress = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare searched policies with baselines at several budgets, on test samples."""
    say_loading()
    from opsearch.commands.analyze import analyze as analyze_runs
    from opsearch.commands.cli.printing import print_compared, print_draws
    from opsearch.commands.compare import compare as compare_methods

    processes = requested_workers(workers, ray_address)
    if draws is not None:
        from opsearch.commands.draws import compare_draws

        if times:
            raise OpsearchError(
                "--times measures the methods of one draw and cannot be combined with --draws; "
                "remove one of them"
            )
        compare_draws(
            run_folder,
            budget,
            draws,
            samples=samples,
            effort=effort,
            console=err,
            workers=processes,
            spaces=space,
            rankers=ranker or (),
        )
        analysis, files = analyze_runs("draws", [run_folder])
        return _give_analysis(
            analysis, files, lambda: print_draws(analysis.tables["draws.csv"], out)
        )
    compare_methods(
        run_folder,
        budget,
        samples=samples,
        effort=effort,
        console=err,
        workers=processes,
        times=times,
        spaces=space,
        rankers=ranker or (),
    )
    analysis, files = analyze_runs("pareto", [run_folder])
    _give_analysis(analysis, files, lambda: print_compared(analysis.tables["pareto.csv"], out))


def _give_analysis(
    analysis: Analysis, files: Sequence[Path], print_table: Callable[[], None]
) -> None:
    """Print an analysis, after `print_table` prints what is shown of its tables; or all as JSON."""
    from opsearch.commands.cli.as_json import analysis_json
    from opsearch.commands.cli.printing import print_analysis

    def print_all() -> None:
        print_table()
        print_analysis(analysis, files, out)

    give(print_all, lambda: analysis_json(analysis, files))


def analyze(
    kind: Annotated[
        str,
        typer.Argument(help="Kind of analysis: {analyses}."),
    ],
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    space: Annotated[
        str | None, typer.Option(help="Space to analyze, if measured; default: that of the run.")
    ] = None,
    out_folder: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the results; default: the first run folder."),
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Make a table, a figure and a description of stored results; no model is loaded."""
    from opsearch.commands.analyze import analyze as analyze_runs

    _give_analysis(*analyze_runs(kind, runs, space, out_folder), lambda: None)
