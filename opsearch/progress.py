"""Progress of a run: stage i/N with time left, a bar in a terminal and plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

Tick = Callable[[int, int], None]
_SECONDS_BETWEEN_LINES = 10.0


class Stages:
    """Announces the stages of a run on `console`; the number of stages is known before."""

    def __init__(self, console: Console, total: int) -> None:
        self.console, self.total, self.current = console, total, 0

    @contextmanager
    def stage(self, title: str) -> Iterator[Tick]:
        """One stage; the yielded function is told how much is done and of how much."""
        self.current += 1
        label = f"{self.current}/{self.total} {title}"
        start = time.perf_counter()
        drawn = (
            _bar(self.console, label) if self.console.is_terminal else _lines(self.console, label)
        )
        with drawn as tick:
            yield tick
        self.say(f"{label}: {time.perf_counter() - start:.1f} s")

    def say(self, text: str) -> None:
        """A line between the stages."""
        self.console.print(text, highlight=False, soft_wrap=True)


@contextmanager
def _bar(console: Console, label: str) -> Iterator[Tick]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(label, total=1)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def _lines(console: Console, label: str) -> Iterator[Tick]:
    start = last = time.perf_counter()

    def tick(done: int, total: int) -> None:
        nonlocal last
        now = time.perf_counter()
        if 0 < done < total and now - last >= _SECONDS_BETWEEN_LINES:
            last = now
            left = (now - start) / done * (total - done)
            console.print(f"{label}: {done}/{total}, about {left:.0f} s left", highlight=False)

    yield tick
