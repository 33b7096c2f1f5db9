"""Reuse of freed host memory, so that large tensors do not cost page faults each time.

glibc takes every block above 32 MB from the system and returns it when it is freed, so each of its
pages is mapped and zeroed again for the next tensor. In a sweep on a CPU this was up to a third of
the time.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache

# Parameters of mallopt(3).
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_KEEP_ALL = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, -1))
# The values that glibc's thresholds reach by themselves once large blocks were freed.
_DEFAULT = ((_MMAP_MAX, 2**16), (_MMAP_THRESHOLD, 2**25), (_TRIM_THRESHOLD, 2**26))


@contextmanager
def reused_memory() -> Iterator[None]:
    """Keep memory that is freed within the block in the process.

    Afterwards it may return to the system when a large block is freed. Without glibc, nothing
    changes.
    """
    mallopt = _mallopt()
    if mallopt is None:
        yield
        return
    for setting in _KEEP_ALL:
        mallopt(*setting)
    try:
        yield
    finally:
        for setting in _DEFAULT:
            mallopt(*setting)


@cache
def _mallopt() -> Callable[[int, int], int] | None:
    """Return the function of the C library, None where it has none."""
    if sys.platform != "linux":
        return None
    function: Callable[[int, int], int] | None = getattr(ctypes.CDLL(None), "mallopt", None)
    return function
