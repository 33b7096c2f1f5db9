"""The kinds of parts, and what each part has."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from inspect import Parameter, getattr_static, isclass, isfunction, signature, unwrap
from typing import Any

from opsearch.errors import OpsearchError


@dataclass(frozen=True)
class Kind:
    """A kind of part.

    Attributes:
        one: The kind in the singular, as messages name it.
        table: Where the built-in parts are, as "module:dict"; its values are parts, or paths of
            parts as "module:name".
        members: Required members of each part.
        contract: The protocol with the methods of a part, as "module:Protocol"; empty if it has
            none.
        builds: The contract of what a part builds from settings, as "module:Protocol"; empty where
            `members` name all of it.
    """

    one: str
    table: str
    members: tuple[str, ...]
    contract: str = ""
    builds: str = ""


KINDS = {
    "solvers": Kind(
        "solver",
        "opsearch.solvers:SOLVERS",
        ("name", "exact", "forms", "takes_start", "require", "solve"),
        contract="opsearch.problem.solution:Solver",
    ),
    "objectives": Kind(
        "objective",
        "opsearch.objectives:OBJECTIVES",
        ("name", "form", "per_budget", "from_settings", "require", "make"),
        contract="opsearch.problem.objective_factory:ObjectiveFactory",
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
        contract="opsearch.costs.base:Cost",
    ),
    "rankers": Kind(
        "ranker",
        "opsearch.rankers:RANKERS",
        ("nested", "needs", "rank"),
        contract="opsearch.rankers.base:Ranker",
    ),
    "decoder_rankers": Kind(
        "ranker",
        "opsearch.rankers:DECODER_RANKERS",
        ("needs", "query_rows", "layers_back", "scores"),
        contract="opsearch.rankers.base:DecoderRanker",
    ),
    "selectors": Kind(
        "selector",
        "opsearch.adaptive.features:SELECTORS",
        ("needs", "features"),
        contract="opsearch.rankers.base:Features",
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


def at(path: str) -> Any:
    """Return the object at "module:name"."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def require_part(kind: str, described: str, part: Any) -> None:
    """Raise OpsearchError unless a part has what its kind needs.

    Args:
        kind: A key of `KINDS`.
        described: The part in words.
        part: The part.
    """
    require_members(kind, described, part, KINDS[kind].members)
    if KINDS[kind].contract:
        _require_signatures(described, part, at(KINDS[kind].contract))


def require_built(kind: str, described: str, built: Any) -> None:
    """Raise OpsearchError unless what a part built from settings has what its contract names."""
    if KINDS[kind].builds:
        contract = at(KINDS[kind].builds)
        members = [member for member in vars(contract) if not member.startswith("_")]
        require_members(kind, described, built, members)


def require_members(kind: str, described: str, part: Any, members: Iterable[str]) -> None:
    """Raise OpsearchError if a part lacks a member."""
    # dir() reads no property: the points of a space may take long, or be too many to list.
    there = set(dir(part))
    lacking = [member for member in members if member not in there]
    if lacking:
        raise OpsearchError(
            f"{described} lacks {', '.join(lacking)}, which every {KINDS[kind].one} has; "
            "add what is missing, or leave that part out"
        )


def _require_signatures(described: str, part: Any, contract: Any) -> None:
    """Raise OpsearchError unless each method can be called as its contract says."""
    for name, method in vars(contract).items():
        if name.startswith("_") or not isfunction(method):
            continue
        wanted = list(signature(method).parameters.values())[1:]
        given = [each.name for each in wanted if each.kind is not Parameter.KEYWORD_ONLY]
        keys = {each.name: None for each in wanted if each.kind is Parameter.KEYWORD_ONLY}
        own = getattr(part, name)
        called = ", ".join((*given, *(f"{key}=..." for key in keys)))
        if not callable(own):
            raise OpsearchError(
                f"{described} has {name}, which is no method, but is called as {name}({called}); "
                "define it as one"
            )
        static = unwrap(getattr_static(part, name))  # of decorators
        if isclass(part) and isfunction(static):
            given.insert(0, "self")
        try:
            takes = signature(own)
        except (TypeError, ValueError):  # a function without a signature that Python can read
            continue
        try:
            takes.bind(*given, **keys)
        except TypeError:
            raise OpsearchError(
                f"{described} has {name}({', '.join(takes.parameters)}), which is called as "
                f"{name}({called}); give it these parameters"
            ) from None
