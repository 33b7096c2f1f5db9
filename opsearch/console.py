"""Consoles for text from files: markup off, and no control characters reach the terminal."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from opsearch.errors import without_controls


class PlainConsole(Console):
    """A console that prints text as it is, without markup, emoji codes and control characters.

    Names in policies, data and models may hold escape sequences, which would move the cursor, set
    the title of the window, or hide what else is printed.

    Args:
        stderr: Print to standard error.
        file: Stream to print to; None: standard output or standard error.
        quiet: Print nothing.
    """

    def __init__(
        self, *, stderr: bool = False, file: IO[str] | None = None, quiet: bool = False
    ) -> None:
        super().__init__(
            stderr=stderr, file=file, quiet=quiet, highlight=False, markup=False, emoji=False
        )

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Yield the segments of a renderable; those of rich itself move the cursor, and pass."""
        for segment in super().render(renderable, options):
            yield (
                segment
                if segment.control
                else segment._replace(text=without_controls(segment.text))
            )
