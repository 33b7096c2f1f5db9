"""`opsearch adapt`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from opsearch.adaptive import DEFAULT_SELECTOR
from opsearch.commands.cli.notes import say_loading
from opsearch.commands.cli.options import Debug, Json, Quiet, RunPath
from opsearch.commands.cli.output import err, give, out


def adapt(
    run_folder: RunPath,
    policies: Annotated[
        int, typer.Option(help="Largest number of policies in the set, 2 to 8.")
    ] = 4,
    selector: Annotated[
        str, typer.Option(help="What the choice reads of a request: {selectors}.")
    ] = DEFAULT_SELECTOR,
    out_folder: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the set; default: adaptive in the run folder."),
    ] = None,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Choose a few policies and a selector, which gives each question one of them.

    The mean cost over the calibration samples keeps to the budget of the run.
    """
    say_loading()
    from opsearch.commands.adapt import adapt as adapt_run
    from opsearch.commands.cli.print_adapted import adapted_json, print_adapted

    found = adapt_run(run_folder, policies=policies, selector=selector, out=out_folder, console=err)
    give(lambda: print_adapted(found, out), lambda: adapted_json(found))
