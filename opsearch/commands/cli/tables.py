"""Tables on the terminal whose numbers and words stay whole, however narrow it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from textwrap import wrap
from typing import Literal

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text


@dataclass(frozen=True)
class Column:
    """A column of a printed table; its header breaks at spaces.

    Attributes:
        header: Title.
        cells: One text per row.
        justify: Side to which the texts are aligned.
        breaks: True if the cells break at spaces as well.
        style: Style of the cells; None: that of the terminal.
    """

    header: str
    cells: Sequence[str]
    justify: Literal["left", "right"] = "right"
    breaks: bool = False
    style: str | None = None

    @property
    def natural(self) -> int:
        """Width without any break."""
        return max(map(cell_len, (self.header, *self.cells)))

    @property
    def least(self) -> int:
        """Width of the longest text that may not break."""
        words = self.header.split()
        for cell in self.cells:
            words += cell.split() if self.breaks else [cell]
        return max(map(cell_len, words), default=0)


def print_table(columns: Sequence[Column], console: Console, gap: int = 2) -> None:
    """Print a table in the width of the console.

    Columns that do not fit follow in further tables, which repeat the first column.

    Args:
        columns: The columns; the first one names the rows.
        console: The console.
        gap: Number of spaces between columns.
    """
    for number, part in enumerate(_parts(columns, console.width, gap)):
        if number:
            console.print()
        widths = _widths(part, console.width - gap * (len(part) - 1))
        rows = [[column.header for column in part], *zip(*(c.cells for c in part), strict=True)]
        for row, cells in enumerate(rows):
            for line in _lines(part, widths, cells, gap, heading=row == 0):
                console.print(line, soft_wrap=True)  # a table may be wider than the console


def _lines(
    columns: Sequence[Column], widths: Sequence[int], cells: Sequence[str], gap: int, heading: bool
) -> Iterator[Text]:
    """Yield the lines of one row of a table."""
    broken = [
        wrap(cell, width, break_long_words=False, break_on_hyphens=False)
        if heading or column.breaks
        else [cell]
        for column, width, cell in zip(columns, widths, cells, strict=True)
    ]
    for texts in zip_longest(*broken, fillvalue=""):
        line = Text()
        for column, width, text in zip(columns, widths, texts, strict=True):
            space = " " * (width - cell_len(text))
            padded = text + space if column.justify == "left" else space + text
            line.append(padded, "bold" if heading else column.style)
            line.append(" " * gap)
        line.rstrip()
        yield line


def _parts(columns: Sequence[Column], width: int, gap: int) -> list[list[Column]]:
    """Divide the columns among tables that fit into a width, each with the first column."""
    first, *others = columns
    parts = [[first]]
    for column in others:
        needed = sum(each.least + gap for each in parts[-1]) + column.least
        if needed > width and len(parts[-1]) > 1:
            parts.append([first])
        parts[-1].append(column)
    return parts


def _widths(columns: Sequence[Column], width: int) -> list[int]:
    """Return a width for each column, where the widest ones give way first."""
    cap = max(column.natural for column in columns)
    while cap > 0:
        widths = [max(column.least, min(column.natural, cap)) for column in columns]
        if sum(widths) <= width:
            return widths
        cap -= 1
    return [column.least for column in columns]
