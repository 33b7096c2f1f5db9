"""Commands that show or export existing results and parts: show, export, report, list."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from opsearch.commands.cli.options import (
    Debug,
    Json,
    OutFolder,
    PolicyPath,
    Quiet,
    ReplaceFile,
    RunPath,
)
from opsearch.commands.cli.output import give, out


def show(
    policy: PolicyPath,
    visual_tokens: Annotated[
        int | None,
        typer.Option(
            min=1, help="Also list the counts for a sample with this number of visual tokens."
        ),
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(help="Also draw the policy to this .svg, .png or .pdf file.")
    ] = None,
    replace: ReplaceFile = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Draw a policy by layer and module, and print its rankers and its origin."""
    from opsearch.analysis.heatmap import save_heatmap
    from opsearch.commands.cli.as_json import policy_json
    from opsearch.commands.cli.print_policy import print_policy
    from opsearch.files import require_new
    from opsearch.policy.policy import Policy

    if figure and not replace:
        require_new(figure)
    shown = Policy.from_pretrained(policy)
    drawn = save_heatmap(shown, figure, visual_tokens) if figure else None
    give(
        lambda: print_policy(shown, visual_tokens, drawn, out),
        lambda: {**policy_json(shown), "figure": drawn},
    )


def export(
    run_folder: RunPath,
    out_file: Annotated[Path, typer.Option("--out", help="The .parquet or .csv file to write.")],
    replace: ReplaceFile = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write the measurements of a run as one tidy table."""
    from opsearch.commands.export import export as export_run
    from opsearch.runs.run_folder import RunFolder

    table = export_run(run_folder, out_file, replace=replace)
    state = RunFolder(run_folder).unfinished
    lines = [f"{len(table)} measurements written to {out_file}", *([state] if state else [])]
    give(
        lambda: out.print("\n".join(lines), soft_wrap=True),
        lambda: {"measurements": len(table), "file": out_file, "finished": not state},
    )


def report(
    run_folder: RunPath,
    out_folder: OutFolder = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write report.html of a run again from stored results; no model is loaded."""
    from opsearch.report.page import save_report

    path = save_report(run_folder, out_folder)
    give(lambda: out.print(path, soft_wrap=True), lambda: {"report": path})


def list_parts(
    kind: Annotated[
        str | None, typer.Argument(help="Kind of part, e.g. solvers; default: all kinds.")
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """List the available solvers, objectives, spaces, costs, rankers, baselines and models."""
    from opsearch.commands.list_parts import parts_of, print_parts

    parts = parts_of(kind)
    give(lambda: print_parts(parts, out), lambda: parts)
