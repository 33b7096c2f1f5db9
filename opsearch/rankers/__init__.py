"""Rankers order a sample's visual tokens, best first; policies keep prefixes of that order."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any, Protocol

from torch import Tensor

from opsearch.errors import PolicyError
from opsearch.policy import RankerSpec
from opsearch.rankers.cdpruner import CDPruner
from opsearch.rankers.cls import Cls
from opsearch.rankers.divprune import DivPrune
from opsearch.rankers.prompt import Prompt
from opsearch.rankers.random import Random
from opsearch.rankers.uniform import Uniform
from opsearch.rankers.visionzip import VisionZip
from opsearch.rankers.vispruner import VisPruner
from opsearch.registry import lookup


class Ranker(Protocol):
    """Orders visual tokens.

    nested: the order does not depend on n, so that a policy may use several counts.
    needs: names of `Prompt.captured` entries that the ranker reads, or of OF_THE_PROMPT.
    """

    @property
    def nested(self) -> bool: ...
    @property
    def needs(self) -> frozenset[str]: ...

    def rank(self, prompt: Prompt, n: Sequence[int]) -> Tensor:
        """Place of each visual token, int64[B, S], -1 elsewhere; places < n[b] are promised."""


RANKERS: dict[str, type[Any]] = {
    "cdpruner": CDPruner,
    "cls": Cls,
    "divprune": DivPrune,
    "random": Random,
    "uniform": Uniform,
    "visionzip": VisionZip,
    "vispruner": VisPruner,
}


def make_ranker(spec: RankerSpec) -> Ranker:
    """The ranker that a policy names; PolicyError when its parameters do not fit."""
    factory = lookup("rankers", spec.name, RANKERS)
    known = list(signature(factory).parameters)
    for name, _ in spec.params:
        if name not in known:
            takes = f"has {', '.join(known)}" if known else "has none"
            raise PolicyError(
                f"ranker {spec.name} has no parameter {name!r} (it {takes}); correct its parameters"
            )
    try:
        ranker: Ranker = factory(**dict(spec.params))
    except TypeError as error:
        raise PolicyError(f"ranker {spec}: {error}; correct its parameters") from None
    return ranker
