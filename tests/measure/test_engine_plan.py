"""The plan equals the execution: exact FLOPs, memory within its bound, no repetition."""

import re
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from opsearch.costs import Flops
from opsearch.costs.shape import CHECKPOINTS, Shape
from opsearch.measure.engine import Engine
from opsearch.measure.layout import Layout
from opsearch.measure.planning.flops import trie_flops
from opsearch.measure.planning.trie import build_trie
from opsearch.measure.storage.store import Store
from opsearch.measure.sweep import passes as passes_module
from opsearch.policy.counts import MLP, live
from opsearch.problem.spaces.depth import depth_space, dop_space
from tests.measure import families
from tests.measure.families import CLS, LAYERS, LAYOUTS, of_counts
from tests.support.flop_counter import CPU_KERNEL
from tests.support.measured import trie_bytes
from tests.support.messages import naming

pytestmark = pytest.mark.usefixtures("no_grad")


def check_planned_flops(engine, policies, samples):
    """Check that the planned FLOPs of all policies but the first are executed."""
    first, *others = policies
    engine.measure([first], samples)  # runs the originals, which the engine keeps
    plan = engine.plan(others, samples)
    with FlopCounterMode(display=False, custom_mapping=CPU_KERNEL) as counter:
        engine.measure(others, samples)
    # Older transformers compute rotary angles as a matrix product, which the counter includes.
    angles = sum(
        sum(found.values())
        for module, found in counter.get_flop_counts().items()
        if module.endswith("RotaryEmbedding")
    )
    assert counter.get_total_flops() - angles == plan.flops > 0


def random_policies(count, seed=0):
    counts = np.random.default_rng(seed).integers(0, 10, (count, LAYERS, 3))
    return [of_counts(each) for each in counts]


def depth_policies():
    space = depth_space(LAYERS, [Fraction(1, 2)], CLS)
    return [space.decode(point) for point in space.points.tolist()]


@pytest.mark.parametrize("positions", [1, 3])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("runs", LAYOUTS, ids=str)
def test_planned_flops_are_executed(store, runs, attention, positions):
    engine = Engine(families.model("llama", attention), store, positions)
    samples = [families.sample(runs, seed) for seed in range(2)]
    check_planned_flops(engine, [*random_policies(6), *depth_policies()[::4]], samples)


def test_one_policy_takes_its_cost_less_what_is_not_needed(store):
    """In the last layer only the last token of the prompt (3 + 9 visual + 4) is needed."""
    model, sample, policy = families.model(), families.sample([3, 4]), depth_policies()[20]
    shape = Shape.from_config(model.config)
    q, kv, _ = policy.live(9).T
    # A cost counts all query-key pairs; the engine skips keys after the query.
    ahead = 3 * int((4 + kv[:-1]).sum()) + 4 * int(q.sum())
    unneeded = 6 * (3 + 4 + int(kv[-1]))
    per_row = 4 * shape.hidden * shape.q_width + 6 * shape.hidden * shape.intermediate
    spared = 4 * shape.q_width * (ahead + unneeded) + 6 * per_row
    cost = int(Flops(shape).of(policy.resolve(9), 9, 7))
    assert Engine(model, store).plan([policy], [sample]).flops == cost - spared


def test_together_takes_much_less_than_alone(store):
    engine, sample = Engine(families.model(), store), families.sample([3, 4])
    policies = depth_policies()
    together = engine.plan(policies, [sample])
    alone = sum(engine.plan([policy], [sample]).flops for policy in policies)
    assert together.flops < alone / 3
    assert together.forwards == pytest.approx(
        together.flops / Flops(engine.memory_budget.shape).stock(9, 7)
    )


# (visual, other tokens), other tokens before the image, forwards for all of dop, of depth.
FORWARDS = {
    "llava-1.5-7b": ((576, 65), 35, 13.4, 189),
    "llava-next-7b": ((2880, 65), 35, 8.4, 90),
    "qwen2.5-vl-7b": ((1280, 45), 15, 5.8, 58),
}


@pytest.mark.parametrize("name", FORWARDS)
def test_whole_spaces_at_one_share_take_few_forwards(name):
    (n_visual, n_other), head, *forwards = FORWARDS[name]
    shape = CHECKPOINTS[name].shape
    layout = Layout(n_visual, head, n_other - head, inner=0, answers=1)
    for make, wanted in zip((dop_space, depth_space), forwards, strict=True):
        space = make(shape.layers, [Fraction(1)], CLS)
        # The last point is the original.
        trie = build_trie(live(space.resolved(space.points[:-1], n_visual)), coupled=False)
        taken = trie_flops(trie, layout, shape) / Flops(shape).stock(n_visual, n_other)
        assert taken == pytest.approx(wanted, rel=0.01)


def test_policies_that_differ_late_share_what_comes_before(store):
    """Two policies that differ in one MLP share the text's rows until a later layer reads them."""
    engine, sample = Engine(families.model(), store), families.sample([3, 4])
    counts = np.full((2, LAYERS, 3), 9)
    counts[:, 1, MLP] = 5
    counts[1, 2, MLP] = 5
    first, second = (of_counts(each) for each in counts)
    text, visual = LAYERS, LAYERS - 1
    assert engine.plan([first], [sample]).nodes == text + visual
    assert engine.plan([first, second], [sample]).nodes == text + 1 + visual + 1


def planned_policies(engine, policies, sample):
    return sum(len(chunk.policies) for chunk in engine.plan(policies, [sample]).chunks)


def test_the_plan_leaves_out_what_is_stored(store):
    engine, sample = Engine(families.model(), store), families.sample([3, 4])
    policies = random_policies(4)
    assert planned_policies(engine, policies, sample) == 4
    engine.measure(policies[:3], [sample])
    assert planned_policies(engine, policies, sample) == 1
    engine.measure(policies, [sample])
    assert (engine.plan(policies, [sample]).flops, engine.plan(policies, [sample]).forwards) == (
        0,
        0,
    )


def test_memory_decides_how_many_samples_then_how_many_policies_run_together(store):
    model, policies = families.model(), depth_policies()
    samples = [families.sample([3, 4], seed) for seed in range(6)]

    def chunks(memory):
        return Engine(model, store, memory=memory).plan(policies, samples).chunks

    (everything,) = chunks(10**9)
    shape = Shape.from_config(model.config)
    one = trie_bytes(everything.trie, everything.layout, shape, itemsize=4)
    shares = len(everything.policies)
    assert [(len(c.samples), len(c.policies)) for c in chunks(6 * one)] == [(6, shares)]
    assert [(len(c.samples), len(c.policies)) for c in chunks(4 * one)] == [
        (4, shares),
        (2, shares),
    ]
    assert {(len(c.samples), len(c.policies)) for c in chunks(one)} == {(1, shares)}
    halved = chunks(one - 1)
    assert {len(c.samples) for c in halved} == {1}
    assert {len(c.policies) for c in halved} == {shares // 2, shares - shares // 2}
    assert {(len(c.samples), len(c.policies)) for c in chunks(1)} == {(1, 1)}


def test_the_plan_is_the_same_every_time(store):
    policies, samples = depth_policies(), [families.sample(runs) for runs in LAYOUTS]
    plans = [Engine(families.model(), store, memory=10**5).plan(policies, samples) for _ in "ab"]
    keys = [[[k.key for k in chunk.policies] for chunk in plan.chunks] for plan in plans]
    assert keys[0] == keys[1]
    assert plans[0].flops == plans[1].flops


def test_out_of_memory_halves_the_chunk_and_goes_on(store, tmp_path, monkeypatch):
    model, policies = families.model(), random_policies(5)
    samples = [families.sample([3, 4], seed) for seed in range(3)]
    with Store(tmp_path / "other.db", {}) as other:
        wanted = Engine(model, other).measure(policies, samples)
    tried = []

    def narrow(layers, trie, entry, done):
        tried.append((len(entry.order), len(trie.leaf)))
        if len(entry.order) * len(trie.leaf) > 3:
            raise torch.OutOfMemoryError("the device is full")
        return sweep(layers, trie, entry, done)

    sweep = passes_module.sweep
    monkeypatch.setattr(passes_module, "sweep", narrow)
    said = []
    found = Engine(model, store, memory=3 * 10**8, say=said.append).measure(policies, samples)
    assert np.abs(found - wanted).max() <= 5e-6
    for message, count in zip(said, (3, 1, 2, 1, 1), strict=True):
        assert re.search(naming("5 policies", f"{count} sample", "--memory", "300 MB"), message)
    assert tried[:4] == [(3, 5), (1, 5), (1, 2), (1, 3)]


def test_progress_ends_at_all_that_halves_had_to_do(store, monkeypatch):
    """Repeated work counts once; halves share less, so they take more than was planned."""
    samples, seen = [families.sample([3, 4])], []
    engine = Engine(families.model(), store)

    def narrow(layers, trie, entry, done):
        states = sweep(layers, trie, entry, done)
        if len(trie.leaf) > 3:
            raise torch.OutOfMemoryError("the device is full")
        return states

    sweep = passes_module.sweep
    monkeypatch.setattr(passes_module, "sweep", narrow)
    policies = depth_policies()[:6]
    planned = engine.plan(policies, samples).flops
    engine.measure(policies, samples, lambda done, total: seen.append((done, total)))
    done, total = seen[-1]
    assert seen[0][1] == planned < done == total
    assert all(done <= total for done, total in seen)


def test_out_of_memory_for_one_policy_on_one_sample_is_an_error(store, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("the device is full")

    monkeypatch.setattr(passes_module, "sweep", full)
    with pytest.raises(torch.OutOfMemoryError):
        Engine(families.model(), store).measure(random_policies(2), [families.sample([3, 4])])
