"""Lines of a stage: amount done and time left."""

import re
from io import StringIO

import pytest
from rich.console import Console

from opsearch import progress
from opsearch.progress import Progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass when the test says so."""
    passed = [0.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: passed[0])
    return passed


@pytest.mark.parametrize(
    ("unit", "shown"), [("", r"3000/12000"), ("FLOPs", r"3 kFLOPs .*12 kFLOPs")], ids=["", "FLOPs"]
)
def test_a_line_says_what_is_done_and_how_long_the_rest_takes(clock, unit, shown):
    said = StringIO()
    with Progress(Console(file=said, width=200), 2).stage("measuring", unit) as tick:
        for clock[0], done in ((5.0, 1000), (20.0, 3000), (21.0, 4000), (80.0, 12000)):
            tick(done, 12000)
    during, end = said.getvalue().splitlines()
    assert re.fullmatch(rf"1/2 measuring: {shown}, .*\b60 s\b.*", during)
    assert end == "1/2 measuring: 80.0 s"


@pytest.mark.parametrize("second", [40, 100])
def test_several_measurements_of_a_stage_are_timed_without_what_is_between_them(clock, second):
    said = StringIO()
    with Progress(Console(file=said, width=200), 1).stage("measuring") as tick:
        for clock[0], done in ((50.0, 50), (100.0, 100)):
            tick(done, 100)
        for clock[0], done in ((900.0, 10), (920.0, 20)):
            tick(done, second)
    left = 2 * (second - 20)
    *during, _ = said.getvalue().splitlines()
    assert len(during) == 2
    assert re.search(rf" 20/{second}, .*\b{left} s\b", during[1])


def test_preparations_do_not_count_as_work(clock):
    said = StringIO()
    with Progress(Console(file=said, width=200), 1).stage("descending") as tick:
        for clock[0], done in ((50.0, 0), (51.0, 1), (60.0, 10)):
            tick(done, 100)
    during, *_ = said.getvalue().splitlines()
    assert re.search(r" 1/100, .*\b99 s\b", during)


def test_a_terminal_gets_a_bar_with_the_same_words():
    said = StringIO()
    console = Console(file=said, width=200, force_terminal=True)
    with Progress(console, 1).stage("measuring", "FLOPs") as tick:
        tick(3 * 10**12, 4 * 10**12)
    assert re.search(r"\b3 TFLOPs .*4 TFLOPs", said.getvalue())
