"""The command line: commands, exit codes, and one sentence for each error."""

from __future__ import annotations

import errno
import os
import re
import shlex
import signal
import sys
from contextlib import suppress
from traceback import walk_tb
from typing import Annotated, Any, NoReturn

import typer

from opsearch.commands.cli.adapt import adapt
from opsearch.commands.cli.bench import bench
from opsearch.commands.cli.evaluation import analyze, compare, evaluate
from opsearch.commands.cli.generate import generate
from opsearch.commands.cli.inspection import export, list_parts, report, show
from opsearch.commands.cli.notes import printed_notes
from opsearch.commands.cli.options import CommandNamingParts
from opsearch.commands.cli.output import errors, out, requested_output
from opsearch.commands.cli.run import run
from opsearch.commands.cli.search import front, solve
from opsearch.commands.cli.serve import serve
from opsearch.commands.cli.streams import (
    CLOSED_PIPE,
    flush_streams,
    make_readable,
    reader_is_gone,
)
from opsearch.models.openmp import wait_settings
from opsearch.version import __version__

INTERRUPTED, HUNG_UP, TERMINATED = 130, 129, 143  # as a shell gives them for these signals
_ENDINGS = {INTERRUPTED: "interrupted", HUNG_UP: "hung up", TERMINATED: "terminated"}
_MEASURING = {"run", "adapt", "solve", "front", "compare", "eval", "bench"}
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
app.command()(adapt)
app.command()(show)
app.command()(generate)
app.command()(serve)
app.command("eval")(evaluate)
app.command()(bench)
app.command(cls=CommandNamingParts)(compare)
app.command(cls=CommandNamingParts)(analyze)
app.command()(export)
app.command()(report)
app.command("list")(list_parts)


def main() -> None:
    """Run the command line and exit.

    The code is 1 after an error, 130 after Ctrl-C, 143 after SIGTERM, 141 where nobody reads the
    output any more.
    """
    # Here, because no command has imported torch yet, and the process is ours alone.
    os.environ.update(wait_settings())
    make_readable()
    for name, code in (("SIGTERM", TERMINATED), ("SIGHUP", HUNG_UP)):
        _leave_on(name, code)
    try:
        code = call(sys.argv[1:])
    except KeyboardInterrupt:  # a second one, while the first is reported
        code = INTERRUPTED
    except SystemExit as stop:  # the same, or there is nowhere to report to
        code = _code_of(stop)
    except BrokenPipeError:  # of click's own messages
        code = CLOSED_PIPE
    end(code)


def _leave_on(name: str, code: int) -> None:
    """Let a signal end the command as Ctrl-C does, unless the process ignores it (nohup).

    SystemExit, because solvers answer KeyboardInterrupt with their best policy so far, with which
    the run would go on.
    """

    def leave(*_: object) -> None:
        raise SystemExit(code)

    number = getattr(signal, name, None)  # SIGHUP is not everywhere
    if number is not None and signal.getsignal(number) is signal.SIG_DFL:
        signal.signal(number, leave)


def end(code: int) -> NoReturn:
    """Exit; after a signal or a closed pipe without Python's finalization.

    A solver that cannot be stopped may still run in a thread, which finalization would crash, and
    finalization would complain about a stream that it cannot flush.
    """
    if code == CLOSED_PIPE or code in _ENDINGS:
        flush_streams()
        os._exit(code)
    sys.exit(code)


def call(arguments: list[str]) -> int:
    """Run the command line and return its exit code."""
    from opsearch.errors import OpsearchError
    from opsearch.registry.failures import naming_parts

    debug = "--debug" in arguments
    try:
        line = shlex.join(["opsearch", *arguments])
        with requested_output(), printed_notes(), naming_parts():
            result: Any = app(arguments, standalone_mode=False, obj=line)
    except typer.Exit as stop:
        result = stop.exit_code
    except (typer.Abort, KeyboardInterrupt):
        result = INTERRUPTED
    except SystemExit as stop:
        result = _code_of(stop)
    except OpsearchError as error:
        if debug:
            raise
        errors.print(f"error: {error}", soft_wrap=True)
        return 1
    except Exception as error:
        return _usage_or_crash(error, debug)
    if result in _ENDINGS:
        with suppress(OSError, SystemExit):  # the terminal or the reader may be gone, too
            resumed = ": all finished measurements are kept; run the same command again to resume"
            measured = bool(_MEASURING.intersection(arguments[:1]))
            errors.print(f"{_ENDINGS[result]}{resumed if measured else ''}", soft_wrap=True)
    return result if isinstance(result, int) else 0


def _code_of(stop: SystemExit) -> int:
    """Return the exit code, and print the text that a library may leave with instead.

    Rich and click themselves leave with 1 where the reader is gone.
    """
    if stop.code == 1 and (_nobody_reads() or _left_by_rich(stop)):
        return CLOSED_PIPE
    if stop.code is None or isinstance(stop.code, int):
        return stop.code or 0
    errors.print(f"error: {stop.code}", soft_wrap=True)
    return 1


def _left_by_rich(stop: SystemExit) -> bool:
    """Return whether rich met a closed pipe, which it then replaces by one that is open."""
    frames = walk_tb(stop.__traceback__)
    return any(frame.f_code.co_name == "on_broken_pipe" for frame, _ in frames)


def _nobody_reads() -> bool:
    return any(map(reader_is_gone, (sys.stdout, sys.stderr)))


def _usage_or_crash(error: Exception, debug: bool) -> int:
    """Print a usage error of click, or report any other exception as a defect."""
    from opsearch.errors import echo, memory_reason, ran_out_of_memory

    if hasattr(error, "show") and hasattr(error, "exit_code"):
        if hasattr(error, "message"):
            error.message = _LONG_VALUE.sub(lambda found: echo(found[1]), str(error.message))
        error.show()
        return int(error.exit_code)
    if isinstance(error, BrokenPipeError) and _nobody_reads():
        return CLOSED_PIPE  # libraries write to the streams, too
    if debug:
        raise error
    if ran_out_of_memory(error):
        failed = (
            f"out of memory ({memory_reason(error)}); use --dtype bfloat16, a smaller --memory or "
            "--batch, or another --device"
        )
    elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
        place = error.filename or "the output"
        failed = (
            f"no space is left where {place} is written; free some, and run the same command again"
        )
    else:
        reason = " ".join(str(error).split()) or "no message"
        failed = (
            f"unexpected {type(error).__name__}: {reason}; this is a defect of opsearch: run again "
            "with --debug and report the traceback"
        )
    errors.print(f"error: {failed}", soft_wrap=True)
    return 1
