"""A part of another package whose entry point cannot be loaded."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import EntryPoint
from unittest import mock

from opsearch import registry


@contextmanager
def broken_part(kind: str, name: str = "broken") -> Iterator[None]:
    """Install the part inside the block."""
    point = EntryPoint(name, "absent_package:Part", f"opsearch.{kind}")
    registry._points.cache_clear()
    try:
        with mock.patch.object(
            registry, "entry_points", lambda group: [point] if group == point.group else []
        ):
            yield
    finally:
        registry._points.cache_clear()
