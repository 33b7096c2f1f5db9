"""Rankers order a sample's visual tokens, best first; policies keep prefixes of that order."""

from __future__ import annotations

from typing import Any

from opsearch import registry
from opsearch.errors import PolicyError, UnknownNameError
from opsearch.policy.ranker import RankerSpec
from opsearch.rankers.base import DecoderRanker, Ranker
from opsearch.rankers.cdpruner import CDPruner
from opsearch.rankers.cls import Cls, VisionZip
from opsearch.rankers.decoder import FastV, FitPrune, PyramidDrop, SparseVLM
from opsearch.rankers.divprune import DivPrune
from opsearch.rankers.uniform import Random, Uniform
from opsearch.rankers.vispruner import VisPruner

RANKERS: dict[str, type[Any]] = {
    "cdpruner": CDPruner,
    "cls": Cls,
    "divprune": DivPrune,
    "random": Random,
    "uniform": Uniform,
    "visionzip": VisionZip,
    "vispruner": VisPruner,
}


DECODER_RANKERS: dict[str, type[Any]] = {
    "fastv": FastV,
    "fitprune": FitPrune,
    "pyramiddrop": PyramidDrop,
    "sparsevlm": SparseVLM,
}


def make_ranker(spec: RankerSpec) -> Ranker:
    """Return the ranker before the decoder that a policy names.

    Raises PolicyError when it cannot be made, UnknownNameError when there is none of that name.
    """
    if spec.inside:
        raise PolicyError(
            f"ranker {spec} acts inside the decoder and orders nothing before it; use one of "
            f"{', '.join(registry.names('rankers'))}"
        )
    factory = registry.lookup("rankers", spec.name)
    ranker: Ranker = registry.make("rankers", spec.name, factory, **dict(spec.params))
    return ranker


def make_decoder_ranker(spec: RankerSpec) -> DecoderRanker:
    """Return the ranker inside the decoder that a policy names; raises as `make_ranker` does."""
    factory = registry.lookup("decoder_rankers", spec.name)
    ranker: DecoderRanker = registry.make(
        "decoder_rankers", spec.name, factory, **dict(spec.params)
    )
    return ranker


def known_ranker(spec: RankerSpec) -> Ranker | DecoderRanker:
    """Return the ranker of a spec, before or inside the decoder."""
    known = [*registry.names("rankers"), *registry.names("decoder_rankers")]
    if spec.name not in known:
        raise UnknownNameError("ranker", spec.name, known)
    return make_decoder_ranker(spec) if spec.inside else make_ranker(spec)
