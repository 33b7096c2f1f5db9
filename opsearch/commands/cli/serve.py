"""`opsearch serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from opsearch.commands.cli.notes import say_loading
from opsearch.commands.cli.options import Debug, Json, PolicyPath, Quiet, RunModel
from opsearch.commands.cli.output import err, give, out
from opsearch.commands.cli.streams import flush_streams


def serve(
    policy: PolicyPath,
    options: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[-- OPTIONS]", help="Options of vLLM's server, e.g. -- --port 8000."
        ),
    ] = None,
    model: RunModel = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the command of the server and exit.")
    ] = False,
    self_check: Annotated[
        int,
        typer.Option(
            min=1,
            help="Number of pairs of random prompts that the server compares with masked attention "
            "before the first request.",
        ),
    ] = 1,
    quiet: Quiet = False,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Serve the model under a policy with vLLM, over the OpenAI API."""
    say_loading()
    from opsearch.commands.serve import become, check_installed, command_line, server_command

    command = server_command(policy, model, options or (), self_check)
    line = command_line(command)
    if dry_run:
        give(lambda: out.print(line, soft_wrap=True), lambda: {"command": command})
        return
    check_installed()
    err.print(f"starting {line}", soft_wrap=True)
    flush_streams()
    become(command)
