"""Commands that look at what is there: show, export, report, list."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from opsearch.commands.cli.options import Debug, PolicyPath, RunPath, out


def show(
    policy: PolicyPath,
    visual_tokens: Annotated[
        int | None, typer.Option(min=1, help="Resolve the shares for a sample of so many tokens.")
    ] = None,
    figure: Annotated[Path | None, typer.Option(help="Also draw it: .svg, .png or .pdf.")] = None,
    debug: Debug = False,
) -> None:
    """Draw a policy: layers by operations, and where it came from."""
    from opsearch.commands.cli.printing import print_policy
    from opsearch.policy.policy import Policy

    print_policy(Policy.from_pretrained(policy), visual_tokens, figure, out)


def export(
    run_folder: RunPath,
    out_file: Annotated[Path, typer.Option("--out", help="A .parquet or .csv file.")],
    debug: Debug = False,
) -> None:
    """Write a run's measurements as one tidy table."""
    from opsearch.commands.export import export as export_run

    table = export_run(run_folder, out_file)
    out.print(f"{len(table)} measurements written to {out_file}", soft_wrap=True)


def report(run_folder: RunPath, debug: Debug = False) -> None:
    """Make a run's report.html again from what is stored: no model is loaded."""
    from opsearch.report.page import save_report

    out.print(save_report(run_folder), soft_wrap=True)


def list_parts(
    kind: Annotated[str | None, typer.Argument(help="Only this kind of part.")] = None,
    debug: Debug = False,
) -> None:
    """List what can be named: solvers, objectives, spaces, costs, rankers, baselines, models."""
    from opsearch.commands.list_parts import print_parts

    print_parts(kind, out)
