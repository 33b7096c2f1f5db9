"""Policies that rank inside the decoder are measured one by one, as the reference measures them."""

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np

from opsearch import builders
from opsearch.measure.engine import Engine
from opsearch.measure.store import Store
from opsearch.policy import Policy, RankerSpec
from tests.measure import demo

CLS = RankerSpec("cls")


def falling(shares, *rankers):
    """A share of the tokens from each of these layers on, and rankers by layer."""
    pairs = tuple((layer, RankerSpec(name)) for layer, name in rankers)
    return replace(builders.stages(demo.LAYERS, shares), rankers=pairs)


def fitprune():
    """Three deletions, each of which leaves the deleted readable in its own layer."""
    left = [100, 60, 60, 30, *[12] * (demo.LAYERS - 3)]
    counts = [(after, before, after) for before, after in pairwise(left)]
    triples = tuple(tuple(Fraction(count) for count in triple) for triple in counts)
    spec = RankerSpec("fitprune")
    return Policy(triples, unit="tokens", rankers=((0, spec), (2, spec), (3, spec)))


POLICIES = {
    "fastv": falling({0: 1, 2: "1/5"}, (2, "fastv")),
    "fastv, others chosen before": falling({0: "1/2", 3: "1/10"}, (0, "cls"), (3, "fastv")),
    "pyramiddrop": falling({0: 1, 3: "1/2", 6: "1/8"}, (3, "pyramiddrop"), (6, "pyramiddrop")),
    "sparsevlm": falling({0: 1, 1: "1/2", 5: "1/10"}, (1, "sparsevlm"), (5, "sparsevlm")),
    "fitprune": fitprune(),
}


def test_divergences_are_those_of_the_reference(tmp_path):
    samples, said = demo.samples(2), []
    policies = [*POLICIES.values(), builders.tokens(demo.LAYERS, "1/4", CLS)]
    with Store(tmp_path / "m.db", {}) as store:
        engine = Engine(demo.model(), store, say=said.append)
        found = engine.measure(policies, samples)
        measured = engine.measured
        assert np.array_equal(engine.measure(policies, samples), found)
        assert engine.measured == measured == found.size
    wanted = [[demo.reference_kl(sample, policy) for sample in samples] for policy in policies]
    assert (np.abs(found - wanted) <= 2e-5 * np.maximum(1, wanted)).all()
    assert said == [
        "policies that rank inside the decoder share nothing with others and are measured one by "
        "one: 5"
    ]


def test_rankers_see_nothing_of_a_longer_answer(tmp_path):
    samples = demo.two_pictures()
    policies = [POLICIES["fastv, others chosen before"], POLICIES["sparsevlm"]]
    with Store(tmp_path / "m.db", {}) as store:
        found = Engine(demo.model(), store, positions=3).measure(policies, samples)
    wanted = [[demo.reference_kl(s, policy, positions=3) for s in samples] for policy in policies]
    assert (np.abs(found - wanted) <= 2e-5 * np.maximum(1, wanted)).all()


def test_each_ranking_is_told_apart_in_the_store(tmp_path):
    """The same counts in the order of four rankers, one of them from before the decoder."""
    counts = {0: 1, 4: "1/5"}
    rankers = ((4, "fastv"), (4, "pyramiddrop"), (4, "sparsevlm"), (4, "fitprune"), (0, "cls"))
    policies = [falling(counts, each) for each in rankers]
    with Store(tmp_path / "m.db", {}) as store:
        found = Engine(demo.model(), store).measure(policies, demo.samples(2))
    assert len({row.tobytes() for row in found}) == len(rankers)
