"""Tables on the terminal keep numbers and words whole at any width."""

from io import StringIO

import pytest
from rich.console import Console

from opsearch.commands.cli.tables import Column, print_table

COLUMNS = [
    Column("", ["FLOPs, mean", "KL calibration"], "left"),
    Column("original", ["568.2 M", "0.000"]),
    Column("FastV like k=3", ["170.1 M", "12.345"]),
    Column("tokens uniform", ["1.123 G", "0.872 ± 0.1 (0.4-1.2)*"]),
    Column("policy", ["a long name (of some words)", "short"], "left", breaks=True),
]


def lines(width, gap=2):
    page = StringIO()
    print_table(COLUMNS, Console(file=page, width=width), gap)
    return page.getvalue().splitlines()


@pytest.mark.parametrize("width", [10, 24, 40, 60, 80, 120])
def test_no_number_is_cut_or_broken(width):
    shown = lines(width)
    for column in COLUMNS[:-1]:
        for cell in column.cells:
            assert any(cell in line for line in shown)
    words = " ".join(shown).split()
    assert {"some", "words)"} <= set(words)
    needed = max(a.least + b.least + 2 for a in COLUMNS[:1] for b in COLUMNS[1:])
    assert max(len(line.rstrip()) for line in shown) <= max(width, needed)


def test_columns_that_do_not_fit_follow_below_with_the_names_of_the_rows():
    assert sum("KL calibration" in line for line in lines(200)) == 1
    assert sum("KL calibration" in line for line in lines(40)) > 1
    # In a wide window, no header or cell breaks.
    assert len(lines(200)) == 3
    assert len(lines(sum(each.natural for each in COLUMNS) + 4, gap=1)) == 3
