"""Look up parts by name: the built-in ones and those of other packages, by entry point.

A part is a solver, an objective, a space, a cost, a ranker or a baseline. The built-in parts of a
kind stand in a plain dict of the room that holds them. Another package adds its own with an entry
point of group `opsearch.<kind>`, and they do all that the built-in ones do:

    [project.entry-points."opsearch.solvers"]
    mine = "my_package:MySolver"
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from inspect import signature
from types import TracebackType
from typing import Any

from opsearch.errors import OpsearchError, PolicyError, UnknownNameError


@dataclass(frozen=True)
class Kind:
    """A kind of part.

    Attributes:
        one: The kind in the singular, as messages name it.
        table: Where the built-in parts are, as "module:dict"; its values are parts, or paths of
            parts as "module:name".
        members: Required members of each part.
        builds: The contract of what a part builds from settings, as "module:Protocol"; empty where
            `members` name all of it.
    """

    one: str
    table: str
    members: tuple[str, ...]
    builds: str = ""


KINDS = {
    "solvers": Kind(
        "solver",
        "opsearch.solvers:SOLVERS",
        ("name", "exact", "forms", "takes_start", "require", "solve"),
    ),
    "objectives": Kind(
        "objective",
        "opsearch.objectives:OBJECTIVES",
        ("name", "form", "per_budget", "from_settings", "require", "make"),
    ),
    "spaces": Kind(
        "space",
        "opsearch.problem.spaces:SPACES",
        ("options", "ranks_inside", "from_settings"),
        builds="opsearch.problem.spaces.base:Space",
    ),
    "costs": Kind(
        "cost",
        "opsearch.costs:COSTS",
        ("name", "unit", "label", "timed", "from_settings", "of", "stock"),
    ),
    "rankers": Kind("ranker", "opsearch.rankers:RANKERS", ("nested", "needs", "rank")),
    "decoder_rankers": Kind(
        "ranker",
        "opsearch.rankers:DECODER_RANKERS",
        ("needs", "query_rows", "layers_back", "scores"),
    ),
    "baselines": Kind(
        "baseline",
        "opsearch.evaluation.baselines:BASELINES",
        (
            "description",
            "makers",
            "ranker",
            "least",
            "granularity",
            "published",
            "knobs",
            "nested",
            "in_run",
        ),
    ),
}


def names(kind: str) -> list[str]:
    """Return the names of all parts of a kind without loading those of other packages.

    Raises:
        OpsearchError: A plug-in takes the name of another part.
    """
    return [*_built_in(kind), *(point.name for point in _points(kind))]


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
        return _at(part) if isinstance(part, str) else part
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
        return f"{KINDS[kind].one} {name!r}"
    return _named(_point(kind, name))


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
            f"{one} {text!r} cannot be read; write it as NAME or 'NAME(PARAMETER=VALUE, ...)', "
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
    shown = ", ".join(f"{key}={value}" for key, value in params.items())
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
    if KINDS[kind].builds and name not in _built_in(kind):
        _require_members(kind, _point(kind, name), made, _contract(KINDS[kind].builds))
    return made


def plugin_of(trace: TracebackType | None) -> str | None:
    """Return the plug-in in whose code an exception was raised, in words; None for our own code."""
    modules = set()
    while trace is not None:
        modules.add(str(trace.tb_frame.f_globals.get("__name__", "")).partition(".")[0])
        trace = trace.tb_next
    for kind in KINDS:
        for point in entry_points(group=f"opsearch.{kind}"):
            if point.module.partition(".")[0] in modules:
                return _named(point)
    return None


_SPEC = re.compile(r"([\w.-]+)\s*(?:\((.*)\))?")
_NAME = re.compile(r"[\w.-]+")


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _built_in(kind: str) -> Mapping[str, Any]:
    parts: Mapping[str, Any] = _at(KINDS[kind].table)
    return parts


def _at(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


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
                    f"{_named(point)} takes the name {point.name!r} of another {one}; rename the "
                    "entry point or uninstall that package"
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
    _require_members(kind, point, part, KINDS[kind].members)
    own = part.name if "name" in KINDS[kind].members else point.name
    if isinstance(own, str) and own != point.name:
        raise OpsearchError(
            f"{_named(point)} calls itself {own!r}; give its entry point and its attribute `name` "
            "one name"
        )
    return part


def _contract(path: str) -> list[str]:
    """Return the public members of a protocol."""
    return [member for member in vars(_at(path)) if not member.startswith("_")]


def _require_members(kind: str, point: EntryPoint, part: Any, members: Iterable[str]) -> None:
    # dir() reads no property: the points of a space may take long, or be too many to list.
    there = set(dir(part))
    lacking = [member for member in members if member not in there]
    if lacking:
        raise OpsearchError(
            f"{_named(point)} lacks {', '.join(lacking)}, which every {KINDS[kind].one} has; "
            "add what is missing, or uninstall that package"
        )


def _named(point: EntryPoint) -> str:
    package = point.dist.name if point.dist else point.module.partition(".")[0]
    return f"the plug-in {point.name!r} of package {package} ({point.group}: {point.value})"
