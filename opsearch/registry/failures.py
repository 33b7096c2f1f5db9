"""Exceptions of parts from other packages: one sentence that names part and package."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any

from opsearch.errors import OpsearchError, ran_out_of_memory
from opsearch.registry import origins


@contextmanager
def naming_parts() -> Iterator[None]:
    """Raise an unexpected exception of a part as an OpsearchError that names it and its package.

    The exception itself is its cause. Errors of opsearch, exceptions of our own code and failed
    allocations pass unchanged.
    """
    try:
        yield
    except OpsearchError:
        raise
    except Exception as error:
        part = None if ran_out_of_memory(error) else failed_part(error.__traceback__)
        if part is None:
            raise
        reason = " ".join(str(error).split()) or "no message"
        raise OpsearchError(
            f"{part} failed with {type(error).__name__}: {reason}; report the traceback to its "
            "authors (at the command line, --debug shows it)"
        ) from error


def failed_part(trace: TracebackType | None) -> str | None:
    """Return the part in whose code an exception was raised, in words; None for our own code.

    A part is known by the object whose method runs. For code of a package that is no such method,
    the entry points of its module are named, or those of the package.
    """
    frames = []
    while trace is not None:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    known = list(origins())
    for frame in frames:
        for origin in known:
            if _runs(frame, origin.part):
                return origin.described
    for same in (_module, _package):
        for frame in frames:
            found = [o.described for o in known if o.module and same(o.module) == same(frame)]
            if found:
                return found[0] if len(found) == 1 else f"one of {'; '.join(found)};"
    return None


def _runs(frame: FrameType, part: Any) -> bool:
    """Return whether a frame is a method of a part, or a maker of a baseline."""
    code = frame.f_code
    if part is not None and code.co_argcount:
        first = frame.f_locals.get(code.co_varnames[0])
        if first is part or type(first) is part:
            return True
    makers = (*getattr(part, "makers", ()), getattr(part, "knobs", None))
    return any(getattr(maker, "__code__", None) is code for maker in makers)


def _module(of: FrameType | str) -> str:
    return of if isinstance(of, str) else str(of.f_globals.get("__name__", ""))


def _package(of: FrameType | str) -> str:
    return _module(of).partition(".")[0]
