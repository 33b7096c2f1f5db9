"""Rankers as a policy names them: `cls` or `vispruner(important=0.3)`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from opsearch import registry
from opsearch.errors import OpsearchError, PolicyError, echo


@dataclass(frozen=True)
class RankerSpec:
    """A ranker by name with its parameters, e.g. RankerSpec("random", (("seed", 3),)).

    Attributes:
        name: Name of the ranker.
        params: Name and value of each parameter that is given; others have their defaults.
    """

    name: str
    params: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        inner = ", ".join(f"{key}={value}" for key, value in self.params)
        return f"{self.name}({inner})" if inner else self.name

    @property
    def inside(self) -> bool:
        """True if the ranker acts inside the decoder."""
        return self.name in registry.names("decoder_rankers")

    @property
    def layers_back(self) -> int:
        """Distance from the layer that a decoder ranker reads to the one it acts before: 0 or 1.

        Raises:
            UnknownNameError: The ranker does not act inside the decoder.
            PolicyError: The ranker states another distance.
        """
        back = registry.lookup("decoder_rankers", self.name).layers_back
        if back not in (0, 1):
            raise PolicyError(
                f"ranker {self.name} has layers_back={echo(back)}; set 0 to read the layer that it "
                "acts before, or 1 to read the preceding one"
            )
        return int(back)


def require_installed(specs: Iterable[RankerSpec]) -> None:
    """Raise OpsearchError if a ranker was registered in this process, for use in another one."""
    for name in dict.fromkeys(spec.name for spec in specs):
        if any(registry.only_here(kind, name) for kind in ("rankers", "decoder_rankers")):
            raise OpsearchError(
                f"ranker {echo(name)} is registered in this process only, and workers do not see "
                "it; leave workers out, or install it as a package with an entry point"
            )


def ranker_as_registered(text: str) -> str:
    """Return a ranker as typed, with its name in the case of the registry."""
    for kind in ("rankers", "decoder_rankers"):
        text = registry.as_registered(kind, text)
    return text


def parse_ranker(text: str) -> RankerSpec:
    """Return the spec that prints as `text`, whose name may be in any case.

    Raises:
        PolicyError: The text is not a ranker.
    """
    name, params = registry.split_spec("rankers", ranker_as_registered(text))
    return RankerSpec(name, tuple(sorted(params.items())))
