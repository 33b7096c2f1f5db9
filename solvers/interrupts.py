"""Ctrl-C while native code runs, which Python's own handler would wait for."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def interrupts() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets inside of the block in place of KeyboardInterrupt.

    It is never set in other threads than the main one, which get no signals, nor where SIGINT is
    ignored or ends the process.
    """
    came = threading.Event()
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    if not (main and callable(before)):
        yield came
        return
    signal.signal(signal.SIGINT, lambda *_: came.set())
    try:
        yield came
    finally:
        signal.signal(signal.SIGINT, before)


def left_behind(call: Callable[[], T]) -> T:
    """The value of a call that nothing can stop; after Ctrl-C it runs on until the process ends."""
    value: Future[T] = Future()

    def run() -> None:
        try:
            value.set_result(call())
        except BaseException as error:
            value.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return value.result()
