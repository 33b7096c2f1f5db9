"""Ctrl-C while native code runs, whose end Python's own handler would wait for."""

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
    """Yield an event that Ctrl-C sets inside the block instead of raising KeyboardInterrupt.

    The event is never set in threads other than the main one, which receive no signals, nor where
    SIGINT does not raise KeyboardInterrupt.
    """
    came = threading.Event()
    main = threading.current_thread() is threading.main_thread()
    if not (main and signal.getsignal(signal.SIGINT) is signal.default_int_handler):
        yield came
        return
    signal.signal(signal.SIGINT, lambda *_: came.set())
    try:
        yield came
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def in_thread(call: Callable[[], T]) -> Future[T]:
    """Start a call in a daemon thread and return its result as a future.

    If it still runs when Python ends, the process may abort: leave by os._exit then.
    """
    value: Future[T] = Future()

    def run() -> None:
        try:
            value.set_result(call())
        except BaseException as error:
            value.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return value
