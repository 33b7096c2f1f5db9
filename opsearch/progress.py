"""Progress of a run: stage i/N with remaining time, as a bar in terminals, else as lines."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from rich import progress as bars
from rich.console import Console

from opsearch.errors import without_controls
from opsearch.formatting import format_amount, format_duration

Tick = Callable[[int, int], None]
Say = Callable[[str], None]
_LOGGER = logging.getLogger("opsearch")
_SECONDS_BETWEEN_LINES = 10.0


class Progress:
    """Display of the stages of a run.

    Every line is also logged to the logger "opsearch" at level INFO.

    Args:
        console: Console to print to; None: print nothing.
        total: Number of stages.

    Attributes:
        seconds: Duration of the finished stages by title; stages of one title are added up.
    """

    def __init__(self, console: Console | None, total: int) -> None:
        self.console, self.total, self.current = console, total, 0
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, title: str, unit: str = "") -> Iterator[Tick]:
        """Show a stage while the block runs.

        Args:
            title: Title of the stage.
            unit: Unit of the amounts, which are shown with an SI prefix; empty for counts.

        Yields:
            A function to call with the finished and the total amount.
        """
        self.current += 1
        label = without_controls(f"{self.current}/{self.total} {title}")
        start = time.perf_counter()
        with self._drawn(label, unit) as tick:
            yield tick
        took = time.perf_counter() - start
        self.seconds[title] = self.seconds.get(title, 0.0) + took
        self.say(f"{label}: {took:.1f} s")

    def unnumbered(self, title: str) -> AbstractContextManager[Tick]:
        """Show work that is usually short and belongs to no stage; its end prints nothing."""
        return self._drawn(title, "")

    def say(self, text: str) -> None:
        """Print and log a line between the stages."""
        text = without_controls(text)
        _LOGGER.info(text)
        if self.console is not None:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _drawn(self, label: str, unit: str) -> AbstractContextManager[Tick]:
        if self.console is None:
            return nullcontext(lambda done, total: None)
        if self.console.is_terminal or self.console.is_jupyter:
            return _bar(self.console, label, unit)
        return _lines(self.console, label, unit)


def _shown(done: int, total: int, unit: str) -> str:
    if not unit:
        return f"{done}/{total}"
    return f"{format_amount(done, unit)} of {format_amount(total, unit)}"


@contextmanager
def _bar(console: Console, label: str, unit: str) -> Iterator[Tick]:
    columns = (
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(),
        bars.TextColumn("{task.fields[shown]}"),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(label, total=1, shown="")

        def tick(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total, shown=_shown(done, total, unit))

        yield tick


@contextmanager
def _lines(console: Console, label: str, unit: str) -> Iterator[Tick]:
    start = last = time.perf_counter()
    begun = before = goal = 0

    def tick(done: int, total: int) -> None:
        nonlocal start, last, begun, before, goal
        now = time.perf_counter()
        # A stage may prepare, or measure several times; each measurement is timed from its first
        # tick, the first one from the start of the stage unless a tick says that nothing is done.
        if not done or (goal and (total != goal or done < before)):
            start, begun = now, done
        goal, before = total, done
        if begun < done < total and now - last >= _SECONDS_BETWEEN_LINES:
            last = now
            left = (now - start) / (done - begun) * (total - done)
            shown = _shown(done, total, unit)
            line = f"{label}: {shown}, about {format_duration(left)} left"
            console.print(line, highlight=False, markup=False, soft_wrap=True)

    yield tick
