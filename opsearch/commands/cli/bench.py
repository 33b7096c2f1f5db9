"""The command that times policies: bench."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from opsearch.commands.cli.engine_options import (
    SERVING,
    EngineChoice,
    EngineName,
    EngineOptions,
    refuse_engine_options,
    refuse_typed,
)
from opsearch.commands.cli.notes import say_loading
from opsearch.commands.cli.options import (
    MEASUREMENT,
    OUTPUT,
    Debug,
    Json,
    Quiet,
    RunAttention,
    RunDevice,
    RunDtype,
    RunModel,
    was_typed,
)
from opsearch.commands.cli.output import err, give, out
from opsearch.errors import OpsearchError

_RANDOM_WEIGHTS = "Random weights"
_NOT_WITH_VLLM = (
    "peers", "shape", "layers", "visual", "text", "batch", "device", "dtype", "attention", "graphs",
)  # fmt: skip


def bench(
    context: typer.Context,
    policy: Annotated[
        Path | None, typer.Argument(metavar="POLICY", help="Run folder or policy_config.json.")
    ] = None,
    options: EngineOptions = None,
    engine: EngineChoice = EngineName.TRANSFORMERS,
    requests: Annotated[
        int,
        typer.Option(
            min=1,
            help="With --engine vllm: number of requests at once, and at each rate of arrival.",
            rich_help_panel=SERVING,
        ),
    ] = 16,
    peers: Annotated[
        bool,
        typer.Option(
            "--peers",
            help="Time published methods of token selection instead of a policy.",
            rich_help_panel=MEASUREMENT,
        ),
    ] = False,
    model: RunModel = None,
    shape: Annotated[
        str | None,
        typer.Option(
            help="Use random weights with the dimensions of a checkpoint, e.g. llava-next-7b; "
            "default: the weights of --model.",
            rich_help_panel=_RANDOM_WEIGHTS,
        ),
    ] = None,
    layers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --shape: number of layers; the policy is thinned to them; default: all.",
            rich_help_panel=_RANDOM_WEIGHTS,
        ),
    ] = None,
    visual: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --shape: number of visual tokens per prompt; default: the checkpoint's.",
            rich_help_panel=_RANDOM_WEIGHTS,
        ),
    ] = None,
    text: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="With --shape: number of text tokens per prompt; default: a typical prompt's.",
            rich_help_panel=_RANDOM_WEIGHTS,
        ),
    ] = None,
    batch: Annotated[
        int,
        typer.Option(min=1, help="Number of prompts per batch.", rich_help_panel=MEASUREMENT),
    ] = 1,
    device: RunDevice = None,
    dtype: RunDtype = None,
    attention: RunAttention = None,
    new_tokens: Annotated[
        int,
        typer.Option(
            min=1, help="Number of tokens to generate per prompt.", rich_help_panel=MEASUREMENT
        ),
    ] = 17,
    repeats: Annotated[
        int,
        typer.Option(
            min=1,
            help="Number of measured pairs, original and policy in alternation.",
            rich_help_panel=MEASUREMENT,
        ),
    ] = 7,
    graphs: Annotated[
        bool,
        typer.Option(
            "--graphs",
            help="Also time the policy with CUDA graphs; needs a GPU.",
            rich_help_panel=MEASUREMENT,
        ),
    ] = False,
    out_file: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="JSONL file to which the times are written after every pair; default: none.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure the times of prefill and decoding and the memory, with and without a policy."""
    if engine is EngineName.VLLM:
        refuse_typed(context, _NOT_WITH_VLLM)
        load = {"requests": requests, "new_tokens": new_tokens, "repeats": repeats}
        return _bench_engine(policy, model, options or (), load, out_file)
    refuse_engine_options(options)
    if was_typed(context, "requests"):
        raise OpsearchError(f"--requests {requests} is for --engine vllm; add it, or leave it out")
    say_loading()
    from opsearch.commands.cli.print_latency import print_latency, print_peers
    from opsearch.progress import Progress
    from opsearch.runs.config import policy_settings
    from opsearch.timing.bench import Setup, bench_peers
    from opsearch.timing.bench import bench as bench_policy

    _check_peers(context, policy, peers, graphs)
    loaded_as = {"model": model, "dtype": dtype, "device": device, "attention": attention}
    run = policy_settings(policy, **loaded_as)
    if graphs and not run.device.startswith("cuda"):
        raise OpsearchError(
            f"--graphs requires CUDA, which --device {run.device} does not have; use --device cuda "
            "or remove --graphs"
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
    progress = Progress(err, 2 + graphs)
    if policy is not None:
        row = bench_policy(policy, setup, progress, out_file)
        return give(lambda: print_latency(row, out), lambda: row)
    rows = bench_peers(setup, progress, out_file)
    give(lambda: print_peers(rows, out), lambda: {"peers": rows})


def _bench_engine(
    policy: Path | None,
    model: str | None,
    options: Sequence[str],
    load: dict[str, int],
    out_file: Path | None,
) -> None:
    """Time vLLM with and without a policy, and print the times."""
    if policy is None:
        raise OpsearchError("--engine vllm times one policy; give POLICY")
    say_loading()
    from opsearch.commands.cli.print_engine_bench import print_engine_bench
    from opsearch.commands.engine_bench import STAGES, Load, bench_engine
    from opsearch.progress import Progress

    row = bench_engine(policy, model, options, Load(**load), Progress(err, STAGES), out_file)
    give(lambda: print_engine_bench(row, out), lambda: row)


def _check_peers(context: typer.Context, policy: Path | None, peers: bool, graphs: bool) -> None:
    """Raise OpsearchError unless either a policy or the peers are timed, with their options."""
    if (policy is not None) == peers:
        given = "both POLICY and --peers" if peers else "neither POLICY nor --peers"
        raise OpsearchError(
            f"{given} were given, but `opsearch bench` times exactly one; give POLICY or --peers"
        )
    if peers and was_typed(context, "new_tokens"):
        raise OpsearchError(
            "--new-tokens has no effect with --peers, which times prefills only; remove "
            "--new-tokens"
        )
    if peers and graphs:
        raise OpsearchError(
            "--graphs cannot be combined with --peers, which runs layer by layer; remove --graphs"
        )
