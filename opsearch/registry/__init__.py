"""Look up parts by name: the built-in ones and those of other packages, by entry point.

A part is a solver, an objective, a space, a cost, a ranker, a selector or a baseline. The built-in
parts of a kind stand in a plain dict of the room that holds them. Another package adds its own with
an entry point of group `opsearch.<kind>`, and they do all that the built-in ones do:

    [project.entry-points."opsearch.solvers"]
    mine = "my_package:MySolver"

`register` adds one to this process alone.
"""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from inspect import Signature, signature
from math import isfinite
from typing import Any

from opsearch.errors import (
    MOST_ECHOED,
    OpsearchError,
    PolicyError,
    UnknownNameError,
    echo,
    shortened,
)
from opsearch.registry.kinds import KINDS, at, require_built, require_part

_registered: dict[str, dict[str, Any]] = defaultdict(dict)
"""Parts of this process by kind and name."""


def register(kind: str, name: str, part: Any) -> None:
    """Add a part to this process, so that it is used by its name as an installed one is.

    For notebooks and scripts. Other processes do not see it: workers refuse it, and a run folder
    that names it can be read only where the same part is registered. A package with an entry point
    is seen everywhere.

    Args:
        kind: solvers, objectives, spaces, costs, rankers, decoder_rankers, selectors or
            baselines.
        name: Name of the part, that of its attribute `name` where it has one.
        part: The class, or the object, as an entry point would name it.

    Raises:
        OpsearchError: The name is taken or malformed, or the part lacks a member.
        UnknownNameError: There is no such kind.
    """
    if kind not in KINDS:
        raise UnknownNameError("kind of part", kind, list(KINDS))
    one = KINDS[kind].one
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise OpsearchError(
            f"{one} {echo(name)} has no usable name; use letters, digits, dots, hyphens and "
            "underscores"
        )
    if name in _all_names(one):
        raise OpsearchError(
            f"the name {echo(name)} is taken by another {one}; give this one another name, or "
            "restart Python to replace one that you registered"
        )
    described = _in_words(kind, name)
    require_part(kind, described, part)
    _require_name(kind, name, part, described)
    _registered[kind][name] = part


def only_here(kind: str, name: str) -> bool:
    """Return whether a part was registered in this process, so that others do not see it."""
    return name in _registered[kind]


def names(kind: str) -> list[str]:
    """Return the names of all parts of a kind without loading those of other packages.

    Raises:
        OpsearchError: A plug-in takes the name of another part.
    """
    return [*_built_in(kind), *(point.name for point in _points(kind)), *_registered[kind]]


def lookup(kind: str, name: str) -> Any:
    """Return the part of a kind with this name.

    Raises:
        UnknownNameError: No part has this name; lists those that exist.
        OpsearchError: The part comes from a plug-in that cannot be loaded or lacks a member.
    """
    known = names(kind)
    if name not in known:
        raise UnknownNameError(KINDS[kind].one, name, known)
    built_in = _built_in(kind)
    if name in built_in:
        part = built_in[name]
        return at(part) if isinstance(part, str) else part
    if name in _registered[kind]:
        return _registered[kind][name]
    return _loaded(kind, _point(kind, name))


def as_registered(kind: str, text: str) -> str:
    """Return a part as typed, `NAME` or `NAME(...)`, with its name in the case of the registry."""
    typed = text.strip()
    found = _NAME.match(typed)
    name = found[0] if found else ""
    alike = [known for known in names(kind) if known.casefold() == name.casefold()]
    return alike[0] + typed[len(name) :] if len(alike) == 1 else text


def registered(kind: str) -> dict[str, Any]:
    """Return all parts of a kind by name."""
    return {name: lookup(kind, name) for name in names(kind)}


def described(kind: str, name: str) -> str:
    """Return the description of a part for messages.

    For a plug-in it includes the package and the entry point.
    """
    if name in _built_in(kind):
        return f"{KINDS[kind].one} {echo(name)}"
    return _in_words(kind, name) if only_here(kind, name) else _named(_point(kind, name))


def split_spec(kind: str, text: str) -> tuple[str, dict[str, int | float | str]]:
    """Return name and parameters of a part as typed: `cls` or `vispruner(important=0.3)`.

    Values are numbers where they look like numbers, else texts; they cannot hold a comma.

    Raises:
        PolicyError: The text is neither NAME nor NAME(PARAMETER=VALUE, ...).
    """
    found = _SPEC.fullmatch(text.strip())
    inner = (found[2] or "") if found else ""
    parts = [part.partition("=") for part in inner.split(",") if part.strip()]
    if found is None or not all(key.strip() and value.strip() for key, _, value in parts):
        one = KINDS[kind].one
        raise PolicyError(
            f"{one} {echo(text)} cannot be read; write it as NAME or 'NAME(PARAMETER=VALUE, ...)', "
            "e.g. 'random(seed=3)'"
        )
    return found[1], {key.strip(): _value(value.strip()) for key, _, value in parts}


def make(kind: str, name: str, factory: Any, *given: Any, **params: Any) -> Any:
    """Return `factory(*given, **params)`, where `params` come from the user.

    Raises:
        PolicyError: The part takes no such parameters, or refuses their values (TypeError).
        OpsearchError: A plug-in built something that lacks a member.
    """
    one, takes = KINDS[kind].one, signature(factory)
    _require_settings(kind, name, takes, given)
    shown = ", ".join(f"{shortened(key)}={shortened(value)}" for key, value in params.items())
    try:
        takes.bind(*given, **params)
    except TypeError:
        own = ", ".join(list(takes.parameters)[len(given) :]) or f"none; write --{one} {name}"
        raise PolicyError(
            f"{one} {name}({shown}) has unknown or missing parameters; {name} takes: {own}"
        ) from None
    try:
        made = factory(*given, **params)
    except TypeError as error:
        if not params:
            raise
        raise PolicyError(f"{one} {name}({shown}): {error}; correct its parameters") from None
    if name not in _built_in(kind):
        require_built(kind, described(kind, name), made)
    return made


@dataclass(frozen=True)
class Origin:
    """Where a part that is not built in comes from.

    Attributes:
        described: The part in words.
        part: The part; None if it was not loaded.
        module: Module of its entry point; empty if it was registered in this process.
    """

    described: str
    part: Any
    module: str = ""


def origins() -> Iterator[Origin]:
    """Yield the parts of other packages and of this process; none is loaded for it."""
    for kind in KINDS:
        for name, part in _registered[kind].items():
            yield Origin(_in_words(kind, name), part)
        for point in entry_points(group=f"opsearch.{kind}"):
            found: Any = sys.modules.get(point.module)
            for attribute in point.attr.split("."):
                found = getattr(found, attribute, None)
            yield Origin(_named(point), found, point.module)


_SPEC = re.compile(r"([\w.-]+)\s*(?:\((.*)\))?")
_NAME = re.compile(r"[\w.-]+")


def _value(text: str) -> int | float | str:
    """Return a number; the text itself if it is none, not finite, or of more than 40 digits."""
    if len(text) > MOST_ECHOED:
        return text
    for kind in (int, float):
        try:
            value = kind(text)
        except ValueError:
            continue
        return value if isfinite(value) else text
    return text


def _built_in(kind: str) -> Mapping[str, Any]:
    parts: Mapping[str, Any] = at(KINDS[kind].table)
    return parts


def _all_names(one: str) -> set[str]:
    """Return the names of all kinds that share theirs, as both kinds of rankers do."""
    return {name for kind in KINDS if KINDS[kind].one == one for name in names(kind)}


@cache
def _points(kind: str) -> tuple[EntryPoint, ...]:
    """Return the entry points of a kind.

    Rankers before and inside the decoder share their names, since a policy gives nothing else.

    Raises:
        OpsearchError: A plug-in takes the name of another part.
    """
    one, found, taken = KINDS[kind].one, [], set[str]()
    alike = [other for other in KINDS if KINDS[other].one == one]
    for other in alike:
        taken |= set(_built_in(other))
    for other in alike:
        for point in entry_points(group=f"opsearch.{other}"):
            if point.name in taken:
                raise OpsearchError(
                    f"{_named(point)} takes the name {echo(point.name)} of another {one}; rename "
                    "the entry point or uninstall that package"
                )
            taken.add(point.name)
            if other == kind:
                found.append(point)
    return tuple(found)


def _point(kind: str, name: str) -> EntryPoint:
    return next(point for point in _points(kind) if point.name == name)


@cache
def _loaded(kind: str, point: EntryPoint) -> Any:
    try:
        part = point.load()
    except Exception as error:
        reason = " ".join(str(error).split())
        raise OpsearchError(
            f"{_named(point)} cannot be loaded ({type(error).__name__}: {reason}); repair or "
            "uninstall that package"
        ) from error
    require_part(kind, _named(point), part)
    _require_name(kind, point.name, part, _named(point))
    return part


def _require_name(kind: str, name: str, part: Any, described: str) -> None:
    """Raise OpsearchError if a part calls itself otherwise than it is registered."""
    own = part.name if "name" in KINDS[kind].members else name
    if isinstance(own, str) and own != name:
        raise OpsearchError(
            f"{described} calls itself {echo(own)}; give its entry point, or its registration, and "
            "its attribute `name` one name"
        )


def _require_settings(kind: str, name: str, takes: Signature, given: tuple[Any, ...]) -> None:
    """Raise OpsearchError if a part cannot be built from what opsearch gives it."""
    try:
        takes.bind_partial(*given)
    except TypeError:
        raise OpsearchError(
            f"{described(kind, name)} is built with ({', '.join(takes.parameters)}), and gets "
            "`settings` first; take them, then parameters of the user"
        ) from None


def _in_words(kind: str, name: str) -> str:
    return f"the {KINDS[kind].one} {echo(name)} registered in this process"


def _named(point: EntryPoint) -> str:
    package = point.dist.name if point.dist else point.module.partition(".")[0]
    return f"the plug-in {echo(point.name)} of package {package} ({point.group}: {point.value})"
