"""Lines on standard error around a command: what it waits for, and warnings, each once."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from opsearch.commands.cli.output import err


class _Notes(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._printed: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        note = record.getMessage()
        if note not in self._printed:
            self._printed.add(note)
            err.print(note, soft_wrap=True)


@contextmanager
def printed_notes() -> Iterator[None]:
    """Print the notes that are logged within the block."""
    logger, notes = logging.getLogger("opsearch"), _Notes()
    logger.addHandler(notes)
    try:
        yield
    finally:
        logger.removeHandler(notes)


def say_loading() -> None:
    """Say that libraries are loaded, which takes seconds, in a command that runs a model."""
    if "torch" not in sys.modules:
        err.print("loading PyTorch and Transformers")
