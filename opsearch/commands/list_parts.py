"""`opsearch list`: the parts that options can name, each with its first sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from opsearch import registry
from opsearch.errors import UnknownNameError

_SEARCHED = {
    "dop additive": "DOP: one depth for attention and one for the MLP, on the best tokens of the "
    "run's ranking; minimizes the sum of the KLs of the parameters alone.",
    "SPACE joint": "opsearch: the policy of SPACE with the lowest measured KL, for dop, depth and "
    "stages; for layers and operations it is named SPACE verified.",
}
"""Methods of `opsearch compare` that are searched in the spaces of --space."""


def parts_of(kind: str | None) -> dict[str, dict[str, str]]:
    """Return the first sentence of each part by kind and name: of one kind, or of all.

    Raises:
        UnknownNameError: There is no such kind.
    """
    kinds = _parts()
    if kind is not None and kind not in kinds:
        raise UnknownNameError("kind of part", kind, list(kinds))
    return {kind: kinds[kind]} if kind else kinds


def print_parts(kinds: Mapping[str, Mapping[str, str]], console: Console) -> None:
    """Print names of parts with their first sentences."""
    for name, parts in kinds.items():
        console.print(name, style="bold")
        width = max(map(len, parts))
        for part, description in parts.items():
            console.print(f"  {part:<{width}}  {description}", soft_wrap=True)


def _parts() -> dict[str, dict[str, str]]:
    from opsearch.evaluation.baselines import DOP_AS_PUBLISHED
    from opsearch.evaluation.reducers import REDUCERS

    named: dict[str, Mapping[str, Any]] = {
        kind: registry.registered(kind)
        for kind in ("solvers", "objectives", "spaces", "costs", "selectors")
    }
    named["rankers"] = registry.registered("rankers") | registry.registered("decoder_rankers")
    described = {
        kind: {name: _first_sentence(part) for name, part in parts.items()}
        for kind, parts in named.items()
    }
    baselines = registry.registered("baselines")
    methods = _SEARCHED | {label: method.description for label, method in baselines.items()}
    methods |= {name: _first_sentence(reducer) for name, reducer in REDUCERS.items()}
    published = {label: method.published for label, method in baselines.items()}
    for label, call in {**published, "dop additive": DOP_AS_PUBLISHED}.items():
        methods[label] += f" As published: {call}" if call else ""
    return described | {"baselines": methods, "models": _models()}


def _models() -> dict[str, str]:
    from opsearch.costs.checkpoints import PREFILLS

    models = {"demo": "the embedded model"}
    for known in PREFILLS.values():
        floor, whole = 100 * known.text_only_floor, 100 * known.whole_floor
        models[known.hub_id] = (
            f"{known.shape.layers} layers x {known.shape.hidden}, {known.visual_tokens} visual "
            f"tokens, text-only floor {floor:.1f}% ({whole:.1f}% with vision), tower "
            f"{100 * known.tower_share:.1f}% of the prefill"
        )
    return models


def _first_sentence(part: Any) -> str:
    lines = (part.__doc__ or "").strip().splitlines()
    return lines[0] if lines else "No description."
