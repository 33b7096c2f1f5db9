"""Rankers as a policy names them: `cls` or `vispruner(important=0.3)`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from opsearch import registry


@dataclass(frozen=True)
class RankerSpec:
    """A ranker by name with its parameters, e.g. RankerSpec("random", (("seed", 3),))."""

    name: str
    params: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        inner = ", ".join(f"{key}={value}" for key, value in self.params)
        return f"{self.name}({inner})" if inner else self.name

    @property
    def inside(self) -> bool:
        """Whether the ranker acts inside the decoder."""
        return self.name in registry.names("decoder_rankers")

    @property
    def layers_back(self) -> int:
        """How many layers before its own a ranker inside the decoder reads attention: 0 or 1.

        Raises UnknownNameError for a ranker that does not act inside the decoder.
        """
        back: int = registry.lookup("decoder_rankers", self.name).layers_back
        return back


def parse_ranker(text: str) -> RankerSpec:
    """Return the spec that prints as `text`.

    Raises PolicyError for a text that is none.
    """
    name, params = registry.split_spec("rankers", text)
    return RankerSpec(name, tuple(sorted(params.items())))
