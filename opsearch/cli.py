"""The command line: parses, calls, prints. Heavy imports wait until a command needs them."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

app = typer.Typer(
    help="Search which visual tokens each layer and module of a multimodal LLM needs to compute.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# No markup: what data, policies and paths say is printed as it is.
out = Console(highlight=False, markup=False)
err = Console(stderr=True, highlight=False, markup=False)

_INTERRUPTED = 130

Model = Annotated[str, typer.Option(help="demo, a local folder, or a hub id.")]
Data = Annotated[
    Path | None, typer.Option(help="JSONL of image, question, answer; default: embedded tasks.")
]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
Device = Annotated[str, typer.Option(help="cpu, cuda, ...")]
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
        "--workers", min=1, help="Processes that measure, on a Ray of their own: opsearch[ray]."
    ),
]
RayAddress = Annotated[
    str | None,
    typer.Option(help="Workers on a Ray cluster, HOST:PORT or auto; default: one per core or GPU."),
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@app.command()
def run(
    context: typer.Context,
    model: Model = "demo",
    data: Data = None,
    samples: Annotated[int, typer.Option(help="Calibration samples.")] = 64,
    heldout: Annotated[int, typer.Option(help="Held-out samples of the final table.")] = 300,
    space: Annotated[
        str, typer.Option(help="tokens, dop, depth, stages, layers or operations.")
    ] = "dop",
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
    n_v: Annotated[
        str, typer.Option(help="Shares of tokens to search: 16 or 8 usual ones, or .5,.25,.125.")
    ] = "16",
    ranker: Annotated[
        str | None,
        typer.Option(
            help="cls, vispruner, divprune, ... or with parameters, 'vispruner(important=0.3)'; "
            "default: that of the model family."
        ),
    ] = None,
    budget: Budgets = ["30%"],  # noqa: B006 - typer reads the default, nobody changes it
    objective: Annotated[
        str | None,
        typer.Option(help="joint, additive or pairwise; default: joint where it fits --effort."),
    ] = None,
    points: Annotated[
        int | None, typer.Option(help="additive: values measured per parameter; default: all.")
    ] = None,
    pairs: Annotated[
        str, typer.Option(help="pairwise: interactions of adjacent layers, or all.")
    ] = "adjacent",
    positions: Annotated[int, typer.Option(help="Answer tokens compared.")] = 1,
    solver: Annotated[str | None, typer.Option(help="grid, ortools, scipy or optuna.")] = None,
    verify: Annotated[
        int, typer.Option(help="Measure so many of the proxy's best at a time, correct it, repeat.")
    ] = 0,
    evaluations: Annotated[
        int, typer.Option(help="optuna, --verify: policies measured as they run.")
    ] = 150,
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
    attention: Annotated[str, typer.Option(help="sdpa or eager.")] = "sdpa",
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
    from opsearch.config import RunConfig
    from opsearch.printing import print_dry_run, print_run

    asked = _workers(workers, ray_address)
    given = dict(context.params)
    for name in ("config", "debug", "dry_run", "shape", "workers", "ray_address"):
        del given[name]
    given["out"] = given.pop("out_folder") or Path("runs") / Path(model).name
    given["budget"] = tuple(budget)
    given["n_v"] = n_v if n_v in ("16", "8") else tuple(part.strip() for part in n_v.split(","))
    if config is not None:
        typed = {name for name in context.params if _was_typed(context, name)}
        typed |= {"out"} if "out_folder" in typed else set()
        changed = {name: value for name, value in given.items() if name in typed}
        given = RunConfig.load(config).model_dump() | changed
    settings = RunConfig.checked(**given)
    if shape and not dry_run:
        raise typer.BadParameter("--shape goes with --dry-run: it has no weights to run")
    if dry_run:
        from opsearch.dry_run import dry_run as plan

        return print_dry_run(plan(settings, shape, err), settings, out)
    from opsearch.run import run as run_config

    print_run(run_config(settings, err, context.obj, asked), out)


@app.command()
def solve(
    run_folder: RunPath,
    budget: Annotated[
        list[str] | None, typer.Option(help="As for run; default: that of the run. Repeatable.")
    ] = None,
    objective: Annotated[str | None, typer.Option(help="Default: that of the run.")] = None,
    solver: Annotated[str | None, typer.Option(help="Default: that of the run.")] = None,
    evaluations: Annotated[int | None, typer.Option(help="optuna: true evaluations.")] = None,
    seed: Annotated[int | None, typer.Option(help="Default: that of the run.")] = None,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Where to write; default: the run's folder.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Solve again from stored measurements: another budget or solver, no model is loaded."""
    from opsearch.printing import print_solution
    from opsearch.solve import solve as solve_stored

    problem, solution, folder = solve_stored(
        run_folder, budget, objective, solver, evaluations, seed, out_folder
    )
    print_solution(problem, solution, folder, out)
    if out_folder is None:
        out.print("the run's earlier policy and comparison are replaced; --out FOLDER keeps them")


@app.command()
def front(
    run_folder: RunPath,
    cost: Annotated[str, typer.Option(help="flops or kv.")] = "flops",
    debug: Debug = False,
) -> None:
    """The exact Pareto front of what a run measured, and which part of it is proved."""
    from opsearch.front import run_front
    from opsearch.printing import print_front

    print_front(*run_front(run_folder, cost), out)


@app.command()
def show(
    policy: PolicyPath,
    visual_tokens: Annotated[
        int | None, typer.Option(min=1, help="Resolve the shares for a sample of so many tokens.")
    ] = None,
    figure: Annotated[Path | None, typer.Option(help="Also draw it: .svg, .png or .pdf.")] = None,
    debug: Debug = False,
) -> None:
    """Draw a policy: layers by operations, and where it came from."""
    from opsearch.policy import Policy
    from opsearch.printing import print_policy

    print_policy(Policy.from_pretrained(policy), visual_tokens, figure, out)


@app.command("eval")
def evaluate(
    policy: PolicyPath,
    model: Model = "demo",
    data: Data = None,
    samples: Annotated[int, typer.Option(help="Items to answer.")] = 300,
    split: Annotated[
        str, typer.Option(help="Of the embedded tasks: train, calibration, held-out or test.")
    ] = "test",
    seed: Annotated[int, typer.Option(help="Which items of the embedded tasks.")] = 0,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    debug: Debug = False,
) -> None:
    """Answer items with the original and with the policy: accuracy per family and Rel. Avg."""
    from opsearch.evaluate import evaluate as evaluate_policy
    from opsearch.printing import print_scores

    scores = evaluate_policy(policy, model, data, samples, split, seed, dtype, device, err)
    print_scores(scores, out)


@app.command()
def bench(
    policy: PolicyPath,
    model: Model = "demo",
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
    device: Device = "cpu",
    dtype: Dtype = "float32",
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens per generation.")] = 17,
    repeats: Annotated[int, typer.Option(min=1, help="Interleaved pairs of generations.")] = 7,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="JSONL that gets a row after every pair.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Time the original against a policy: prefill, first token, decode, memory."""
    from opsearch.bench.command import Setup
    from opsearch.bench.command import bench as bench_policy
    from opsearch.bench.table import print_latency
    from opsearch.progress import Stages

    setup = Setup(model, shape, layers, visual, text, batch, device, dtype, new_tokens, repeats)
    print_latency(bench_policy(policy, setup, Stages(err, 2), out_file), out)


@app.command()
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
    times: Annotated[
        bool, typer.Option("--times", help="Also time each prefill beside the original's.")
    ] = False,
    workers: WorkerCount = None,
    ray_address: RayAddress = None,
    debug: Debug = False,
) -> None:
    """Compare searched policies and baselines at several budgets, on items of their own."""
    from opsearch.analyze import analyze as analyze_runs
    from opsearch.compare import compare as compare_methods
    from opsearch.printing import print_analysis, print_compared

    asked = _workers(workers, ray_address)
    compare_methods(run_folder, budget, samples, effort, err, asked, times, space)
    analysis, files = analyze_runs("pareto", [run_folder])
    print_compared(analysis.tables["pareto.csv"], out)
    print_analysis(analysis, files, out)


@app.command()
def analyze(
    kind: Annotated[
        str,
        typer.Argument(help="rank, curves, interactions, pareto, ablation, transfer or tables."),
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
    from opsearch.analyze import analyze as analyze_runs
    from opsearch.printing import print_analysis

    print_analysis(*analyze_runs(kind, runs, space, out_folder), out)


@app.command()
def export(
    run_folder: RunPath,
    out_file: Annotated[Path, typer.Option("--out", help="A .parquet or .csv file.")],
    debug: Debug = False,
) -> None:
    """Write a run's measurements as one tidy table."""
    from opsearch.export import export as export_run

    table = export_run(run_folder, out_file)
    out.print(f"{len(table)} measurements written to {out_file}", soft_wrap=True)


@app.command()
def report(run_folder: RunPath, debug: Debug = False) -> None:
    """Make a run's report.html again from what is stored: no model is loaded."""
    from opsearch.report.page import save_report

    out.print(save_report(run_folder), soft_wrap=True)


@app.command("list")
def list_parts(
    kind: Annotated[str | None, typer.Argument(help="Only this kind of part.")] = None,
    debug: Debug = False,
) -> None:
    """List what can be named: solvers, objectives, spaces, costs, rankers, baselines, models."""
    from opsearch.printing import print_parts

    print_parts(kind, out)


def _workers(count: int | None, address: str | None) -> Any:
    """Who measures, as asked for; None: this process."""
    if count is None and address is None:
        return None
    from opsearch.measure.workers import Workers

    return Workers(count, address)


def _was_typed(context: typer.Context, name: str) -> bool:
    """Whether an option was given, and not left at its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def main() -> None:
    """Entry point: one sentence and exit code 1 for errors, 130 for Ctrl-C."""
    sys.exit(call(sys.argv[1:]))


def call(arguments: list[str]) -> int:
    """Run the command line and return its exit code."""
    from opsearch.errors import OpsearchError

    debug = "--debug" in arguments
    try:
        line = shlex.join(["opsearch", *arguments])
        result: Any = app(arguments, standalone_mode=False, obj=line)
    except typer.Exit as stop:
        result = stop.exit_code
    except (typer.Abort, KeyboardInterrupt):
        result = _INTERRUPTED
    except OpsearchError as error:
        if debug:
            raise
        err.print(f"error: {error}", soft_wrap=True)
        return 1
    except Exception as error:
        return _usage_or_crash(error, debug)
    if result == _INTERRUPTED:
        err.print(
            "interrupted: every finished measurement is kept, the same command goes on from there",
            soft_wrap=True,
        )
    return result if isinstance(result, int) else 0


def _usage_or_crash(error: Exception, debug: bool) -> int:
    """Click's usage errors print themselves; anything else is a defect and says so."""
    if hasattr(error, "show") and hasattr(error, "exit_code"):
        error.show()
        return int(error.exit_code)
    if debug:
        raise error
    reason = " ".join(str(error).split()) or "no message"
    err.print(
        f"error: unexpected {type(error).__name__}: {reason}; run again with --debug and report it",
        soft_wrap=True,
    )
    return 1
