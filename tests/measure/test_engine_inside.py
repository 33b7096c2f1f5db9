"""Policies that rank inside the decoder share computation without changing values."""

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsearch.costs.rankings import ranking_flops
from opsearch.costs.shape import Shape
from opsearch.measure.engine import Engine
from opsearch.measure.storage.store import Store
from opsearch.policy import builders
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec
from opsearch.rankers import DECODER_RANKERS
from tests.measure import demo, families
from tests.measure.answered import alone
from tests.measure.families import LAYERS, LAYOUTS
from tests.measure.test_engine_plan import check_planned_flops
from tests.measure.test_shared_images import questions, uneven
from tests.measure.test_sweep import TOLERANCE

pytestmark = pytest.mark.usefixtures("no_grad")

CLS, RANDOM = RankerSpec("cls"), RankerSpec("random")


def falling(shares, *rankers):
    """Return a policy of a share of tokens from each of these layers on, with rankers by layer."""
    pairs = tuple((layer, RankerSpec(name)) for layer, name in rankers)
    return replace(builders.stages(demo.LAYERS, shares), rankers=pairs)


def fitprune():
    """Return a policy of three deletions; deleted tokens stay readable in the layer of deletion."""
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


def test_divergences_are_those_of_the_reference(store):
    samples = demo.samples(2)
    policies = [*POLICIES.values(), builders.tokens(demo.LAYERS, "1/4", CLS)]
    engine = Engine(demo.model(), store)
    found = engine.measure(policies, samples)
    measured = engine.measured
    assert np.array_equal(engine.measure(policies, samples), found)
    assert engine.measured == measured == found.size
    wanted = [[demo.reference_kl(sample, policy) for sample in samples] for policy in policies]
    assert (np.abs(found - wanted) <= 2e-5 * np.maximum(1, wanted)).all()


def inside(counts, before, names):
    """Return a policy in tokens; names: the ranker before each layer from 1 on, or None."""
    triples = tuple(tuple(Fraction(count) for count in triple) for triple in counts)
    specs = [(layer, RankerSpec(name)) for layer, name in enumerate(names, 1) if name]
    return Policy(triples, unit="tokens", rankers=((0, before), *specs))


@st.composite
def policy_sets(draw):
    """Draw policies that share some first layers, with rankers before any layer but the first."""
    count = st.sampled_from([0, 2, 5, 9, 18])
    layer = st.lists(count, min_size=3, max_size=3)
    name = st.sampled_from([None, *DECODER_RANKERS])
    found = []
    for _ in range(draw(st.integers(1, 4))):
        counts = draw(st.lists(layer, min_size=LAYERS, max_size=LAYERS))
        names = draw(st.lists(name, min_size=LAYERS - 1, max_size=LAYERS - 1))
        alike = draw(st.integers(0, LAYERS))
        if found:
            counts[:alike] = found[0][0][:alike]
            names[:alike] = found[0][1][:alike]
        found.append((counts, names))
    before = draw(st.sampled_from([CLS, RANDOM]))
    return [inside(counts, before, names) for counts, names in found]


@given(
    policies=policy_sets(),
    runs=st.sampled_from(LAYOUTS),
    questions_on=st.sampled_from([(1,), (2,), (2, 1), ()]),
    attention=st.sampled_from(["sdpa", "eager"]),
    positions=st.sampled_from([1, 3]),
)
@settings(max_examples=30)
def test_random_sets(tmp_path_factory, policies, runs, questions_on, attention, positions):
    model = families.model("llama", attention)
    samples = questions(runs, *questions_on) if questions_on else uneven(runs)
    with Store(tmp_path_factory.mktemp("run") / "m.db", {}) as store:
        found = Engine(model, store, positions).measure(policies, samples)
    wanted = [[alone(model, p, sample, positions) for sample in samples] for p in policies]
    assert np.abs(found - wanted).max() <= TOLERANCE


def several():
    """Return policies with every ranker; some share first layers, some update only a part."""
    generator, names = np.random.default_rng(0), [None, *DECODER_RANKERS]
    found = []
    for number in range(12):
        counts = generator.choice([2, 5, 9], (LAYERS, 3)).tolist()
        counts[: number % 3] = [[9, 9, 9]] * (number % 3)
        chosen = [None if n == 0 else names[n] for n in generator.integers(0, 5, LAYERS - 1)]
        found.append(inside(counts, CLS, chosen))
    return found


@pytest.mark.parametrize("positions", [1, 3])
@pytest.mark.parametrize("runs", LAYOUTS, ids=str)
def test_planned_flops_are_executed(store, runs, positions):
    """FLOPs of rankers included; rankers read the question, so questions share no image rows."""
    engine, samples = Engine(families.model(), store, positions), uneven(runs)
    check_planned_flops(engine, several(), samples)


def test_a_look_is_shared_by_all_that_look_so(store):
    """With several counts for two rankers before one layer, each ranker runs once."""
    engine, sample = Engine(families.model(), store), families.sample([3, 4])
    shape = Shape.from_config(engine.model.config)

    def policies(name, shares):
        counts = [[[9, 9, 9]] * 2 + [[n, n, n]] * (LAYERS - 2) for n in shares]
        return [inside(each, CLS, [None, name]) for each in counts]

    def flops(wanted):
        return engine.plan(wanted, [sample]).flops

    (one,) = policies("fastv", [4])
    (unranked,) = policies(None, [4])
    look = ranking_flops(one, 9, 7, shape)
    assert flops([one]) - flops([unranked]) == look > 0
    together, apart = policies("fastv", range(1, 9)), policies(None, range(1, 9))
    assert flops(together) - flops(apart) == look
    assert flops([*together, *policies("sparsevlm", [4])]) < flops(together) + flops([one])


def test_less_memory_means_parts_of_the_same_values(tmp_path):
    samples, found = uneven([3, 4]), []
    for memory in (10**9, 10**5, 1):
        with Store(tmp_path / f"{memory}.db", {}) as store:
            engine = Engine(families.model(), store, memory=memory)
            found.append(engine.measure(several(), samples))
    assert np.abs(np.array(found) - found[0]).max() <= TOLERANCE


def test_rankers_see_nothing_of_a_longer_answer(tmp_path):
    samples = demo.two_pictures()
    policies = [POLICIES["fastv, others chosen before"], POLICIES["sparsevlm"]]
    with Store(tmp_path / "m.db", {}) as store:
        found = Engine(demo.model(), store, positions=3).measure(policies, samples)
    wanted = [[demo.reference_kl(s, policy, positions=3) for s in samples] for policy in policies]
    assert (np.abs(found - wanted) <= 2e-5 * np.maximum(1, wanted)).all()


def test_each_ranking_is_kept_apart_in_the_store(tmp_path):
    """The same counts with five rankers, one of them before the decoder."""
    counts = {0: 1, 4: "1/5"}
    rankers = ((4, "fastv"), (4, "pyramiddrop"), (4, "sparsevlm"), (4, "fitprune"), (0, "cls"))
    policies = [falling(counts, each) for each in rankers]
    with Store(tmp_path / "m.db", {}) as store:
        found = Engine(demo.model(), store).measure(policies, demo.samples(2))
    assert len({row.tobytes() for row in found}) == len(rankers)


def with_dead_operations(last):
    """Return a policy whose last layer only differs in what no later layer reads."""
    counts = [(100, 100, 100), (50, 100, 50), *[(25, 25, 25)] * (demo.LAYERS - 3), last]
    return inside(counts, RANDOM, [None, "pyramiddrop"])


def test_dead_operations_that_are_candidates_of_a_ranker_give_another_key(store):
    """Both rank the tokens that some later operation names, dead or not, before layer 2."""
    policies = [with_dead_operations(last) for last in ((0, 25, 0), (100, 25, 100))]
    assert np.array_equal(policies[0].live(100), policies[1].live(100))
    assert policies[0].candidates(100) != policies[1].candidates(100)
    samples = demo.samples(2)
    engine = Engine(demo.model(), store)
    found = engine.measure(policies, samples)
    assert engine.measured == found.size
    wanted = [[demo.reference_kl(sample, policy) for sample in samples] for policy in policies]
    assert (np.abs(found - wanted) <= 2e-5 * np.maximum(1, wanted)).all()
    assert (found[0] != found[1]).all()
