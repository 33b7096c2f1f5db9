"""Commands that search stored measurements: solve, front."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from opsearch.commands.cli.notes import say_loading
from opsearch.commands.cli.options import Debug, Json, OutFolder, Quiet, Replace, RunPath
from opsearch.commands.cli.output import err, give, out


def solve(
    run_folder: RunPath,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            help="Maximum cost, as for `opsearch run`; default: that of the run. Repeatable."
        ),
    ] = None,
    objective: Annotated[
        str | None, typer.Option(help="Objective: {objectives}; default: that of the run.")
    ] = None,
    solver: Annotated[
        str | None,
        typer.Option(
            help="Solver: {solvers}; default: that of the run, or by the form of a new objective."
        ),
    ] = None,
    evaluations: Annotated[
        int | None,
        typer.Option(
            help="Maximum number of policies that a solver without a complete table evaluates; "
            "default: that of the run, or the solver's own."
        ),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(help="Random seed of the solver; default: that of the run.")
    ] = None,
    verify: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Measure this number of the proxy's best policies per round, correct the proxy, "
            "and repeat; at most 150 policies or --evaluations. Loads the model.",
        ),
    ] = None,
    out_folder: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="Folder for the results; default: answers/solved-... in the run folder.",
        ),
    ] = None,
    replace: Replace = False,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Solve a run again with another budget, objective or solver; no model is loaded.

    With --verify, the model is loaded and measures on the samples of the run.
    """
    from opsearch.commands.cli.as_json import search_json
    from opsearch.commands.cli.printing import print_solution

    given: dict[str, Any] = {
        "budget": budget,
        "objective": objective,
        "solver": solver,
        "evaluations": evaluations,
        "seed": seed,
        "out": out_folder,
        "replace": replace,
    }
    if verify is None:
        from opsearch.commands.solve import solve as solve_stored

        found = solve_stored(run_folder, **given)
    else:
        say_loading()
        from opsearch.commands.verified_solve import solve_verified

        found = solve_verified(run_folder, verify, **given, console=err)
    give(
        lambda: print_solution(found.problem, found.solution, found.folder, out),
        lambda: search_json(found),
    )


def front(
    run_folder: RunPath,
    cost: Annotated[
        str,
        typer.Option(help="Cost: {costs}. A cost in time needs a run with a time budget."),
    ] = "flops",
    measure: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Search the front of measured KL in a space that is too large to list; maximum "
            "number of policies to measure. Loads the model.",
        ),
    ] = None,
    out_folder: OutFolder = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compute the Pareto front of a run's measurements, and state which points are proved."""
    from opsearch.commands.cli.as_json import front_json
    from opsearch.commands.cli.printing import print_front

    if measure is not None:
        say_loading()
        from opsearch.commands.searched_front import searched_front

        found = searched_front(run_folder, measure, cost, err, out_folder)
    else:
        from opsearch.commands.front import run_front

        found = run_front(run_folder, cost, out_folder)
    give(lambda: print_front(*found, out), lambda: front_json(*found))
