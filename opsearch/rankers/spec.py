"""Rankers in words, `cls` or `vispruner(important=0.3)`: as options and run.yaml have them."""

from __future__ import annotations

import re

from opsearch.errors import PolicyError
from opsearch.policy import RankerSpec

_SPEC = re.compile(r"([\w.-]+)\s*(?:\((.*)\))?")


def parse_ranker(text: str) -> RankerSpec:
    """The spec that prints like this; PolicyError for a text that is none.

    Values are numbers where they look like numbers, else texts; they cannot hold a comma.
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
