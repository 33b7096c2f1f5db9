"""Rankers order the visual tokens of a sample, best first; policies keep the first ones."""

from __future__ import annotations

from inspect import signature
from typing import Any

from opsearch.errors import PolicyError
from opsearch.policy.ranker import RankerSpec
from opsearch.rankers.base import DecoderRanker, Ranker
from opsearch.rankers.cdpruner import CDPruner
from opsearch.rankers.cls import Cls, VisionZip
from opsearch.rankers.decoder import FastV, FitPrune, PyramidDrop, SparseVLM
from opsearch.rankers.divprune import DivPrune
from opsearch.rankers.uniform import Random, Uniform
from opsearch.rankers.vispruner import VisPruner
from opsearch.registry import lookup

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
