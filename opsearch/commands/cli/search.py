"""Commands that search in what a run stored: solve, front."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from opsearch.commands.cli.options import Debug, RunPath, err, out


def solve(
    run_folder: RunPath,
    budget: Annotated[
        list[str] | None, typer.Option(help="As for run; default: that of the run. Repeatable.")
    ] = None,
    objective: Annotated[str | None, typer.Option(help="Default: that of the run.")] = None,
    solver: Annotated[str | None, typer.Option(help="Default: that of the run.")] = None,
    evaluations: Annotated[
        int | None,
        typer.Option(help="optuna: policies looked up, at most; default: that of the run, or 150."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Default: that of the run.")] = None,
    out_folder: Annotated[
        Path | None, typer.Option("--out", help="Where to write; default: the run's folder.")
    ] = None,
    debug: Debug = False,
) -> None:
    """Solve again from stored measurements: another budget or solver, no model is loaded."""
    from opsearch.commands.cli.printing import print_solution
    from opsearch.commands.solve import solve as solve_stored

    problem, solution, folder = solve_stored(
        run_folder, budget, objective, solver, evaluations, seed, out_folder
    )
    print_solution(problem, solution, folder, out)
    if out_folder is None:
        out.print("the run's earlier policy and comparison are replaced; --out FOLDER keeps them")


def front(
    run_folder: RunPath,
    cost: Annotated[
        str, typer.Option(help="flops, kv, or latency after a run with a budget of time.")
    ] = "flops",
    measure: Annotated[
        int | None,
        typer.Option(
            min=1, help="layers, operations: search that of joint, measuring so many policies."
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """The exact Pareto front of what a run measured, and which part of it is proved."""
    from opsearch.commands.cli.printing import print_front

    if measure is not None:
        from opsearch.commands.searched_front import searched_front

        return print_front(*searched_front(run_folder, measure, cost, err), out)
    from opsearch.commands.front import run_front

    print_front(*run_front(run_folder, cost), out)
