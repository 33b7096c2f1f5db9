"""Text form of ranker specs in options and run.yaml, e.g. `vispruner(important=0.3)`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opsearch.errors import PolicyError

if TYPE_CHECKING:
    pass

_SPEC = re.compile(r"([\w.-]+)\s*(?:\((.*)\))?")


def parse_ranker(text: str) -> RankerSpec:
    """Parse the text form of a spec, the inverse of `str(spec)`.

    Values are integers or floats if they can be parsed as such, otherwise strings. They cannot
    contain a comma.

    Raises:
        PolicyError: The text is not a ranker spec.
    """
    found = _SPEC.fullmatch(text.strip())
    inner = (found[2] or "") if found else ""
    parts = [part.partition("=") for part in inner.split(",") if part.strip()]
    if found is None or not all(key.strip() and value.strip() for key, _, value in parts):
        raise PolicyError(
            f"ranker {text!r} cannot be read; write it as NAME or 'NAME(PARAMETER=VALUE, ...)', "
            "e.g. 'random(seed=3)'"
        )
    params = {key.strip(): _value(value.strip()) for key, _, value in parts}
    return RankerSpec(found[1], tuple(sorted(params.items())))


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


@dataclass(frozen=True)
class RankerSpec:
    """A ranker by name with its parameters, e.g. RankerSpec("random", (("seed", 3),))."""

    name: str
    params: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        inner = ", ".join(f"{key}={value}" for key, value in self.params)
        return f"{self.name}({inner})" if inner else self.name


# How many layers before its place the attention stands that a ranker inside the decoder reads.
LAYERS_BACK = {"fastv": 1, "fitprune": 0, "pyramiddrop": 0, "sparsevlm": 1}
