"""Measured divergences equal the reference's in any batching, and are measured once."""

import copy

import numpy as np
import pytest
import torch

from opsearch.errors import ModelError, PolicyError
from opsearch.measure.engine import Engine
from opsearch.measure.storage.store import Store
from opsearch.policy import builders
from opsearch.policy.builders import dop, identity, stages, tokens, vtw
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec
from tests.measure import families
from tests.measure.demo import LAYERS, TOLERANCE, model, reference_kl, samples, two_pictures
from tests.support.measured import stored_count
from tests.support.messages import refuses

pytestmark = pytest.mark.usefixtures("no_grad")

CLS = RankerSpec("cls")
POLICIES = {
    "tokens, cls": tokens(LAYERS, "1/4", CLS),
    "tokens, uniform": tokens(LAYERS, "1/10", RankerSpec("uniform")),
    "tokens, random": tokens(LAYERS, "1/3", RankerSpec("random", (("seed", 4),))),
    "dop, kv leaves": dop(LAYERS, 7, 3, "1/2", CLS),
    "dop, kv leaves, other mlp": dop(LAYERS, 7, 5, "1/2", CLS),
    "dop, kv stays": dop(LAYERS, 4, 2, "1/2", CLS, kv="stays"),
    "depth": builders.depth(LAYERS, 5, 9, 6, "2/5", CLS),
    "vtw": vtw(LAYERS, 4),
    "no image at all": vtw(LAYERS, 0),
    "shortv": builders.shortv(LAYERS, [3, 5, 8]),
    "stages": stages(LAYERS, {0: 1, 2: "1/2", 6: "1/8"}, CLS),
    "stages, the last of no tokens": stages(LAYERS, {0: 1, 3: "1/4", 7: 0}, CLS),
    "stages, the last in the last layer": stages(LAYERS, {0: "1/2", LAYERS - 1: "1/4"}, CLS),
}
SAME_AS_ORIGINAL = {
    "identity": identity(LAYERS),
    "all tokens": tokens(LAYERS, 1, CLS),
    "withdrawn after the end": vtw(LAYERS, LAYERS),
    "no dead operation": builders.shortv(LAYERS, [LAYERS - 1]),
    "more tokens than there are": Policy(((300, 300, 300),) * LAYERS, unit="tokens"),
}


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "measurements.db", {"test": 1}) as opened:
        yield opened


@pytest.fixture
def count_forwards():
    """Yield a function that returns the number of decoder passes so far."""
    passes = []
    decoder = model().model.language_model
    handle = decoder.register_forward_pre_hook(lambda *_: passes.append(1))
    yield lambda: len(passes)
    handle.remove()


def expected(policies, wanted, positions=1):
    return np.array([[reference_kl(s, p, positions) for s in wanted] for p in policies])


def deviation(found, wanted):
    """Return the largest difference, relative to max(1, divergence)."""
    return (np.abs(found - wanted) / np.maximum(wanted, 1)).max()


def test_every_policy_has_the_divergence_of_the_reference(store):
    wanted = [*samples(3), *two_pictures()]
    found = Engine(model(), store).measure(list(POLICIES.values()), wanted)
    reference = expected(POLICIES.values(), wanted)
    assert deviation(found, reference) <= TOLERANCE
    # Guard against a vacuous comparison: every policy changes some answer.
    assert reference.max(axis=1).min() > 0.01


def test_every_policy_has_the_divergence_of_applying_it(store):
    sample = samples(3)[2]
    stock = torch.log_softmax(model()(**sample.inputs).logits[0, -1], -1)
    found = Engine(model(), store).measure(list(POLICIES.values()), [sample])
    for (name, policy), (value,) in zip(POLICIES.items(), found, strict=True):
        with policy.apply(model()):
            pruned = torch.log_softmax(model()(**sample.inputs).logits[0, -1], -1)
        alone = float((stock.exp() * (stock - pruned)).sum())
        assert value == pytest.approx(alone, rel=TOLERANCE, abs=TOLERANCE), name


def test_several_positions_follow_the_answer_of_the_original(store):
    wanted = samples(15)[13:]  # a letter and a word: answers of one token and of three
    policies = [POLICIES["tokens, cls"], POLICIES["dop, kv leaves"], POLICIES["vtw"]]
    found = Engine(model(), store, positions=3).measure(policies, wanted)
    assert deviation(found, expected(policies, wanted, 3)) <= TOLERANCE
    first = expected(policies, wanted, 1)
    assert np.abs(found - first).max() > 0.01


@pytest.mark.parametrize("memory", [1, 10**6, 4 * 10**6])
def test_the_size_of_a_chunk_does_not_change_values(tmp_path, memory):
    wanted, policies = [*samples(4), *two_pictures()], list(POLICIES.values())[:6]
    with Store(tmp_path / "a.db", {}) as large, Store(tmp_path / "b.db", {}) as small:
        together = Engine(model(), large).measure(policies, wanted)
        apart = Engine(model(), small, memory=memory).measure(policies, wanted)
    assert deviation(together, apart) <= TOLERANCE


def test_values_keep_the_order_of_policies_and_samples(store):
    policies, wanted = list(POLICIES.values())[:4], [*two_pictures(), *samples(4)]
    engine = Engine(model(), store)
    table = engine.measure(policies, wanted)
    reordered = engine.measure(policies[::-1], wanted[::-1])
    assert np.array_equal(table[::-1, ::-1], reordered)
    assert len(np.unique(table)) == table.size


def test_the_original_is_zero_without_a_forward(store, count_forwards):
    engine = Engine(model(), store)
    table = engine.measure(list(SAME_AS_ORIGINAL.values()), [*samples(2), *two_pictures()])
    assert np.array_equal(table, np.zeros((5, 3)))
    assert (engine.measured, count_forwards(), stored_count(store)) == (0, 0, 0)


def test_nothing_is_measured_twice(store, count_forwards):
    policy, wanted = POLICIES["dop, kv leaves"], samples(3)
    renamed = Policy(policy.counts, rankers=policy.rankers, name="the same")
    in_tokens = Policy(
        tuple(tuple(int(c * 100) for c in triple) for triple in policy.counts),
        unit="tokens",
        rankers=policy.rankers,
    )
    engine = Engine(model(), store)
    table = engine.measure([policy, renamed, identity(LAYERS), in_tokens], wanted)
    assert engine.measured == stored_count(store) == len(wanted)
    assert np.array_equal(table[0], table[1])
    assert np.array_equal(table[0], table[3])
    before = count_forwards()
    other = Engine(model(), store)
    assert np.array_equal(other.measure([renamed], wanted)[0], table[0])
    assert (other.measured, count_forwards()) == (0, before)


def test_only_what_is_missing_is_measured(store):
    first, second = POLICIES["vtw"], POLICIES["tokens, cls"]
    Engine(model(), store).measure([first], samples(4)[:2])
    engine = Engine(model(), store)
    table = engine.measure([first, second], samples(4))
    assert engine.measured == 2 * 4 - 2
    assert deviation(table, expected([first, second], samples(4))) <= TOLERANCE


def test_a_ranker_that_is_never_asked_does_not_make_another_policy(store):
    engine = Engine(model(), store)
    withdrawn = vtw(LAYERS, 5)
    ranked = Policy(withdrawn.counts, rankers=((0, RankerSpec("random")),))
    engine.measure([withdrawn, ranked], samples(2))
    assert engine.measured == 2


def test_progress_counts_planned_flops_layer_by_layer(store):
    seen = []
    policies = [POLICIES["vtw"], POLICIES["shortv"], identity(LAYERS)]
    wanted = [*samples(3), *two_pictures()]
    engine = Engine(model(), store)
    plan = engine.plan(policies, wanted)
    engine.measure(policies, wanted, lambda done, total: seen.append((done, total)))
    assert {total for _, total in seen} == {plan.flops}
    counted = [done for done, _ in seen]
    assert counted == sorted(counted)
    # Each chunk reports its last layer, and again when it is written.
    assert len(set(counted)) == LAYERS * len(plan.chunks) == len(counted) - len(plan.chunks)
    assert counted[-1] == plan.flops


def test_other_divergences_are_stored_beside(store):
    policy, (sample, *_) = POLICIES["tokens, random"], samples(3)
    Engine(model(), store).measure([policy], [sample])
    with policy.apply(model()):
        pruned = model()(**sample.inputs).logits[0, -1].double()
    stock = model()(**sample.inputs).logits[0, -1].double()
    p, q = torch.log_softmax(stock, -1), torch.log_softmax(pruned, -1)
    middle = ((p.exp() + q.exp()) / 2).log()
    wanted = {
        "kl": (p.exp() * (p - q)).sum(),
        "reverse_kl": (q.exp() * (q - p)).sum(),
        "js": ((p.exp() * (p - middle)).sum() + (q.exp() * (q - middle)).sum()) / 2,
        "top1": float(p.argmax() == q.argmax()),
    }
    for column, value in wanted.items():
        (found,) = store.get([policy.canonical(sample.n_visual)], column).values()
        assert found == pytest.approx(float(value), abs=TOLERANCE), column


def broken(parameter):
    """Return a copy of the model with one weight set to nan."""
    damaged = copy.deepcopy(model())
    with torch.no_grad():
        damaged.get_parameter(parameter).data.view(-1)[0] = float("nan")
    return damaged


def test_an_original_that_is_not_finite_is_an_error(store):
    engine = Engine(broken("model.language_model.norm.weight"), store)
    with refuses(ModelError, "original", "embedded/calibration/0/0", "--dtype float32"):
        engine.measure([POLICIES["vtw"]], samples(2))
    assert stored_count(store) == 0


def test_a_prompt_that_ends_with_its_image_is_refused(store):
    engine = Engine(families.model(), store)
    policy = vtw(families.LAYERS, 1)
    with refuses(PolicyError, "image", "text"):
        engine.measure([policy], [families.sample([3, 0])])


def test_a_policy_that_is_not_finite_is_named_with_its_item(store):
    """The second of two policies overflows on the second of two samples."""
    first, second = POLICIES["dop, kv leaves"], POLICIES["dop, kv leaves, other mlp"]
    wanted = [s for s in samples(30) if s.shape == samples(1)[0].shape][:2]
    engine = Engine(model(), store)
    engine.measure([POLICIES["stages"]], wanted)

    def overflow(module, args, output):
        assert output.shape[:2] == (2, 2)
        broken = output.clone()
        broken[1, 1] = float("inf")
        return broken

    handle = model().model.language_model.norm.register_forward_hook(overflow)
    try:
        with refuses(ModelError, second.name, wanted[1].item.id, "--dtype float32"):
            engine.measure([first, second], wanted)
    finally:
        handle.remove()
    # Finished measurements stay, and the same call goes on from there.
    assert stored_count(store) == 2
    assert np.isfinite(engine.measure([first, second], wanted)).all()
