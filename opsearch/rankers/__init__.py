"""Rankers order the visual tokens of a sample, best first; policies keep the first ones."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import signature
from typing import Any, Protocol

from torch import Tensor

from opsearch.errors import PolicyError
from opsearch.policy.ranker import RankerSpec
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
    """Ranker of visual tokens before the decoder."""

    @property
    def nested(self) -> bool:
        """Whether the ranking is the same for all n, so that a policy may use several counts."""

    @property
    def needs(self) -> frozenset[str]:
        """Inputs that the ranker reads: entries of `Prompt.captured` or names in PROMPT_NEEDS."""

    def rank(self, prompt: Prompt, n: Sequence[int]) -> Tensor:
        """Return the rank of each visual token, 0 for the best.

        Args:
            prompt: The batch.
            n: Number of tokens to select in each sample; only ranks below it must be exact.

        Returns:
            int64[B, S], -1 at other positions.
        """


RANKERS: dict[str, type[Any]] = {
    "cdpruner": CDPruner,
    "cls": Cls,
    "divprune": DivPrune,
    "random": Random,
    "uniform": Uniform,
    "visionzip": VisionZip,
    "vispruner": VisPruner,
}


# Rankers inside the decoder; each reads the attention of one layer (`layers_back`).
DECODER_RANKERS: dict[str, type[Any]] = {
    "fastv": FastV,
    "fitprune": FitPrune,
    "pyramiddrop": PyramidDrop,
    "sparsevlm": SparseVLM,
}


def make_ranker(spec: RankerSpec) -> Ranker:
    """Create a ranker before the decoder; raise PolicyError if its parameters are wrong."""
    if spec.name in DECODER_RANKERS:
        raise PolicyError(
            f"ranker {spec} acts inside the decoder and orders nothing before it; use one of "
            f"{', '.join(RANKERS)}"
        )
    ranker: Ranker = _create(lookup("rankers", spec.name, RANKERS), spec)
    return ranker


def make_decoder_ranker(spec: RankerSpec) -> DecoderRanker:
    """Create a ranker inside the decoder; raise PolicyError if its parameters are wrong."""
    ranker: DecoderRanker = _create(lookup("rankers", spec.name, DECODER_RANKERS), spec)
    return ranker


def _create(factory: type[Any], spec: RankerSpec) -> Any:
    params, accepted = dict(spec.params), signature(factory)
    try:
        accepted.bind(**params)
    except TypeError:
        known = ", ".join(accepted.parameters) or f"none; write --ranker {spec.name}"
        raise PolicyError(
            f"ranker {spec} has a parameter too many or too few; {spec.name} has {known}"
        ) from None
    try:
        return factory(**params)
    except TypeError as error:
        raise PolicyError(f"ranker {spec}: {error}; correct its parameters") from None
