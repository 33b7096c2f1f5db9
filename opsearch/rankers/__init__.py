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
from opsearch.rankers.fastv import FastV
from opsearch.rankers.fitprune import FitPrune
from opsearch.rankers.look import DecoderRanker
from opsearch.rankers.prompt import Prompt
from opsearch.rankers.pyramiddrop import PyramidDrop
from opsearch.rankers.random import Random
from opsearch.rankers.sparsevlm import SparseVLM
from opsearch.rankers.uniform import Uniform
from opsearch.rankers.visionzip import VisionZip
from opsearch.rankers.vispruner import VisPruner
from opsearch.registry import lookup


class Ranker(Protocol):
    """Orders visual tokens before the decoder.

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


# Those that act inside the decoder; opsearch/turns.py says which layer's attention they read.
DECODER_RANKERS: dict[str, type[Any]] = {
    "fastv": FastV,
    "fitprune": FitPrune,
    "pyramiddrop": PyramidDrop,
    "sparsevlm": SparseVLM,
}


def make_ranker(spec: RankerSpec) -> Ranker:
    """The ranker before the decoder that a policy names; PolicyError when it cannot be made."""
    if spec.name in DECODER_RANKERS:
        raise PolicyError(
            f"ranker {spec} acts inside the decoder and orders nothing before it; use one of "
            f"{', '.join(RANKERS)}"
        )
    ranker: Ranker = _made(lookup("rankers", spec.name, RANKERS), spec)
    return ranker


def make_decoder_ranker(spec: RankerSpec) -> DecoderRanker:
    """The ranker inside the decoder that a policy names; PolicyError when it cannot be made."""
    ranker: DecoderRanker = _made(lookup("rankers", spec.name, DECODER_RANKERS), spec)
    return ranker


def _made(factory: type[Any], spec: RankerSpec) -> Any:
    given, takes = dict(spec.params), signature(factory)
    try:
        takes.bind(**given)
    except TypeError:
        known = ", ".join(takes.parameters) or f"none; write --ranker {spec.name}"
        raise PolicyError(
            f"ranker {spec} has a parameter too many or too few; {spec.name} has {known}"
        ) from None
    try:
        return factory(**given)
    except TypeError as error:
        raise PolicyError(f"ranker {spec}: {error}; correct its parameters") from None
