"""The command line: commands, exit codes, and one sentence for each error."""

from __future__ import annotations

import os
import re
import shlex
import sys
from contextlib import suppress
from typing import Annotated, Any, NoReturn

import typer

from opsearch.commands.cli.evaluation import analyze, bench, compare, evaluate
from opsearch.commands.cli.generate import generate
from opsearch.commands.cli.inspection import export, list_parts, report, show
from opsearch.commands.cli.notes import printed_notes
from opsearch.commands.cli.options import CommandNamingParts, err, out
from opsearch.commands.cli.run import run
from opsearch.commands.cli.search import front, solve
from opsearch.models.openmp import wait_settings
from opsearch.version import __version__

INTERRUPTED = 130
_LONG_VALUE = re.compile(r"'([^']{41,})'")  # as click repeats values

app = typer.Typer(
    help="Search which visual tokens each layer and module of a multimodal LLM needs to compute.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(given: bool) -> None:
    if given:
        out.print(f"opsearch {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Take the options that come before a command."""


app.command(cls=CommandNamingParts)(run)
app.command(cls=CommandNamingParts)(solve)
app.command(cls=CommandNamingParts)(front)
app.command()(show)
app.command()(generate)
app.command("eval")(evaluate)
app.command()(bench)
app.command(cls=CommandNamingParts)(compare)
app.command(cls=CommandNamingParts)(analyze)
app.command()(export)
app.command()(report)
app.command("list")(list_parts)


def main() -> None:
    """Run the command line and exit: code 1 after an error, 130 after Ctrl-C."""
    # Here, because no command has imported torch yet, and the process is ours alone.
    os.environ.update(wait_settings())
    end(call(sys.argv[1:]))


def end(code: int) -> NoReturn:
    """Exit; after Ctrl-C without Python's finalization.

    A solver that cannot be stopped may still run in a thread, which finalization would crash.
    """
    if code == INTERRUPTED:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # the reading end of a pipe may be closed
                stream.flush()
        os._exit(code)
    sys.exit(code)


def call(arguments: list[str]) -> int:
    """Run the command line and return its exit code."""
    from opsearch.errors import OpsearchError
    from opsearch.registry.failures import naming_parts

    debug = "--debug" in arguments
    try:
        line = shlex.join(["opsearch", *arguments])
        with printed_notes(), naming_parts():
            result: Any = app(arguments, standalone_mode=False, obj=line)
    except typer.Exit as stop:
        result = stop.exit_code
    except (typer.Abort, KeyboardInterrupt):
        result = INTERRUPTED
    except OpsearchError as error:
        if debug:
            raise
        err.print(f"error: {error}", soft_wrap=True)
        return 1
    except Exception as error:
        return _usage_or_crash(error, debug)
    if result == INTERRUPTED:
        err.print(
            "interrupted: all finished measurements are kept; run the same command again to resume",
            soft_wrap=True,
        )
    return result if isinstance(result, int) else 0


def _usage_or_crash(error: Exception, debug: bool) -> int:
    """Print a usage error of click, or report any other exception as a defect."""
    if hasattr(error, "show") and hasattr(error, "exit_code"):
        if hasattr(error, "message"):
            error.message = _LONG_VALUE.sub(lambda found: echo(found[1]), str(error.message))
        error.show()
        return int(error.exit_code)
    if debug:
        raise error
    from opsearch.errors import echo, memory_reason, ran_out_of_memory

    if ran_out_of_memory(error):
        failed = (
            f"out of memory ({memory_reason(error)}); use --dtype bfloat16, a smaller --memory or "
            "--batch, or another --device"
        )
    else:
        reason = " ".join(str(error).split()) or "no message"
        failed = (
            f"unexpected {type(error).__name__}: {reason}; this is a defect of opsearch: run again "
            "with --debug and report the traceback"
        )
    err.print(f"error: {failed}", soft_wrap=True)
    return 1
