"""Rankers order a sample's visual tokens, best first; policies keep prefixes of that order."""

from __future__ import annotations

from typing import TYPE_CHECKING

from opsearch import registry
from opsearch.errors import PolicyError, UnknownNameError, shortened
from opsearch.policy.ranker import RankerSpec

# Rankers import torch inside functions: commands without a model name them, too.
if TYPE_CHECKING:
    from opsearch.rankers.base import DecoderRanker, Ranker

# Paths, not classes: policies are read and printed without importing torch.
RANKERS = {
    "cdpruner": "opsearch.rankers.cdpruner:CDPruner",
    "cls": "opsearch.rankers.cls:Cls",
    "divprune": "opsearch.rankers.divprune:DivPrune",
    "evs": "opsearch.rankers.evs:EVS",
    "mmtok": "opsearch.rankers.mmtok:MMTok",
    "otprune": "opsearch.rankers.otprune:OTPrune",
    "random": "opsearch.rankers.random:Random",
    "received": "opsearch.rankers.received:Received",
    "uniform": "opsearch.rankers.uniform:Uniform",
    "visionzip": "opsearch.rankers.visionzip:VisionZip",
    "vispruner": "opsearch.rankers.vispruner:VisPruner",
}
DECODER_RANKERS = {
    "fastv": "opsearch.rankers.decoder:FastV",
    "fitprune": "opsearch.rankers.decoder:FitPrune",
    "pyramiddrop": "opsearch.rankers.decoder:PyramidDrop",
    "sparsevlm": "opsearch.rankers.decoder:SparseVLM",
}


def make_ranker(spec: RankerSpec) -> Ranker:
    """Return the ranker before the decoder that a policy names.

    Raises PolicyError when it cannot be made, UnknownNameError when there is none of that name.
    """
    if spec.inside:
        raise PolicyError(
            f"ranker {shortened(spec)} acts inside the decoder and orders nothing before it; "
            f"use one of {', '.join(registry.names('rankers'))}"
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
