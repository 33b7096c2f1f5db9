"""Names for parts: the built-in dict of a kind, joined by third parties' entry points."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import TypeVar

from opsearch.errors import OpsearchError, UnknownNameError

T = TypeVar("T")


def registered(kind: str, builtin: Mapping[str, T]) -> dict[str, T]:
    """All parts of a kind ("solvers", ...) by name, plug-ins of group opsearch.<kind> included.

    Raises OpsearchError when a plug-in takes the name of another part.
    """
    parts = dict(builtin)
    for point in entry_points(group=f"opsearch.{kind}"):
        if point.name in parts:
            raise OpsearchError(
                f"the plug-in {point.value} registers {point.name!r} in opsearch.{kind}, which is "
                "taken; rename its entry point"
            )
        parts[point.name] = point.load()
    return parts


def lookup(kind: str, name: str, builtin: Mapping[str, T]) -> T:
    """The part of a kind with this name; UnknownNameError lists what exists otherwise."""
    parts = registered(kind, builtin)
    if name not in parts:
        raise UnknownNameError(kind.removesuffix("s"), name, list(parts))
    return parts[name]
