"""Output of commands: results, progress and errors.

The result goes to standard output: as text, or with --json as one JSON object and nothing else.
Progress and notes go to standard error, and with --quiet nowhere. Errors always go there.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from opsearch.commands.cli.streams import StreamConsole

out = StreamConsole()
err = StreamConsole(stderr=True)
errors = StreamConsole(stderr=True)
"""Console for errors, which --quiet leaves; `err` is for progress and notes."""

_LIBRARIES = "TRANSFORMERS_VERBOSITY"  # read when transformers is imported


class _Requested:
    """Output options of the command line."""

    as_json = False


def _set_quiet(given: bool) -> None:
    if given:
        err.quiet = True
        os.environ.setdefault(_LIBRARIES, "error")


def _set_json(given: bool) -> None:
    _Requested.as_json = given


QUIET = typer.Option(
    "--quiet",
    callback=_set_quiet,
    expose_value=False,
    help="Print the result and errors only, no progress and no notes.",
)
JSON = typer.Option(
    "--json",
    callback=_set_json,
    expose_value=False,
    help="Print the result as one JSON object on standard output, and nothing else there.",
)


@contextmanager
def requested_output() -> Iterator[None]:
    """Let --quiet and --json hold within the block only."""
    verbosity = os.environ.get(_LIBRARIES)
    try:
        yield
    finally:
        err.quiet, _Requested.as_json = False, False
        if verbosity is None:
            os.environ.pop(_LIBRARIES, None)


def give(text: Callable[[], object], result: Callable[[], Mapping[str, Any]]) -> None:
    """Print the result of a command.

    Args:
        text: Prints it for a reader.
        result: Returns it for a program.
    """
    if _Requested.as_json:
        line = json.dumps(plain(result()), allow_nan=False)
        out.file.write(f"{line}\n")
        out.file.flush()
    else:
        text()


def plain(value: Any) -> Any:
    """Return a value in terms of JSON; a number that is none or not finite is null.

    Tables become lists of rows, arrays lists, paths and other objects their text.
    """
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "to_dict"):  # a table of pandas
        return plain(value.to_dict("records"))
    if hasattr(value, "tolist"):  # an array or a number of NumPy
        return plain(value.tolist())
    return str(value)
