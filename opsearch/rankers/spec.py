"""Text form of ranker specs in options and run.yaml, e.g. `vispruner(important=0.3)`."""

from __future__ import annotations

import re

from opsearch.errors import PolicyError
from opsearch.policy import RankerSpec

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
