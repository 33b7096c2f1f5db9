"""Questions on one image share its rows: exact FLOPs, and the values of each alone."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pytest
import torch

from opsearch.costs.shape import Shape
from opsearch.data.item import Item
from opsearch.measure.engine import Engine
from opsearch.measure.layout import Size
from opsearch.measure.planning.batches import group_samples
from opsearch.measure.planning.estimate import estimate
from opsearch.measure.planning.flops import trie_flops
from opsearch.measure.planning.memory import MemoryBudget
from opsearch.measure.storage.store import Store
from opsearch.models.encoding import Sample
from opsearch.models.families import family_for
from opsearch.policy.ranker import RankerSpec
from opsearch.problem.spaces.depth import depth_space
from opsearch.rankers import RANKERS
from opsearch.rankers.base import ranking_from_scores
from tests.measure import families
from tests.measure.answered import alone
from tests.measure.families import CLS, LAYERS, of_counts
from tests.measure.test_engine_plan import check_planned_flops
from tests.measure.test_sweep import TOLERANCE
from tests.support import tiny
from tests.support.measured import trie_bytes

pytestmark = pytest.mark.usefixtures("no_grad")

SPACE = depth_space(LAYERS, [Fraction(1, 2)], CLS)
POLICIES = [
    *(SPACE.decode(point) for point in SPACE.points.tolist()[:-1:8]),
    *(of_counts(c) for c in np.random.default_rng(2).integers(0, 10, (2, LAYERS, 3))),
]
# Lengths of text around the images; the rows of COUPLED cannot be shared.
SHARED = ([3, 4], [0, 5], [2, 0, 5])
COUPLED = [2, 3, 4]


def question(runs, image, number):
    """Return another question after the same start and images."""
    stock = families.sample(runs, image)
    ids = stock.inputs["input_ids"].clone()
    generator = torch.Generator().manual_seed(100 * image + number)
    ids[0, -runs[-1] :] = torch.randint(6, tiny.VOCAB, (runs[-1],), generator=generator)
    name = f"{runs}/{image}/{number}"
    inputs = {**stock.inputs, "input_ids": ids}
    return Sample(Item(name, "", (), ()), name, inputs, stock.n_visual, stock.n_other)


def longer(runs, image, number, more):
    """Return a question with some more tokens at its end."""
    stock = question(runs, image, number)
    ids = torch.nn.functional.pad(stock.inputs["input_ids"], (0, more), value=7 + number)
    inputs = {**stock.inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return Sample(stock.item, stock.digest, inputs, stock.n_visual, stock.n_other + more)


def uneven(runs):
    """Return questions on three images, some of nearly the same length."""
    chosen = ((0, 0, 7), (1, 0, 0), (0, 1, 6), (0, 2, 7), (1, 1, 1), (2, 0, 6))
    return [longer(runs, image, number, more) for image, number, more in chosen]


def questions(runs, *numbers):
    """Return the given number of questions on each image, interleaved."""
    chosen = [(n, image) for image, count in enumerate(numbers) for n in range(count)]
    return [question(runs, image, n) for n, image in sorted(chosen)]


def gathered(samples, model):
    return group_samples(samples, family_for("llava"), model.config, answers=1)


@pytest.mark.parametrize("positions", [1, 3])
@pytest.mark.parametrize("runs", [*SHARED, COUPLED], ids=str)
def test_they_say_what_each_says_alone(store, runs, positions):
    model, samples = families.model(), questions(runs, 3, 1, 2)
    found = Engine(model, store, positions).measure(POLICIES, samples)
    wanted = [[alone(model, policy, s, positions) for s in samples] for policy in POLICIES]
    assert np.abs(found - wanted).max() <= TOLERANCE
    # Guard against a vacuous comparison: no two questions have the same divergence.
    assert len(np.unique(np.round(wanted[0], 6))) == len(samples)


@pytest.mark.parametrize("positions", [1, 3])
@pytest.mark.parametrize("runs", [*SHARED, COUPLED], ids=str)
def test_questions_of_different_length_say_what_each_says_alone(store, runs, positions):
    model, samples = families.model(), uneven(runs)
    found = Engine(model, store, positions).measure(POLICIES, samples)
    wanted = [[alone(model, policy, s, positions) for s in samples] for policy in POLICIES]
    assert np.abs(found - wanted).max() <= TOLERANCE
    assert len(np.unique(np.round(wanted[0], 6))) == len(samples)


def test_questions_of_nearly_the_same_length_share_their_image():
    model, samples = families.model(), uneven([3, 4])
    assert [(batch.size, batch.tails) for batch in gathered(samples, model)] == [
        (Size(3, 1), [11, 11, 10]),
        (Size(2, 1), [5, 4]),
        (Size(1, 1), [10]),
    ]
    # Where nothing can be shared nothing is padded.
    for batch in gathered(uneven(COUPLED), model):
        assert len(set(batch.tails)) == 1


def test_a_part_is_padded_to_its_own_longest():
    (batch, *_) = gathered(uneven([3, 4]), families.model())
    assert (batch.layout.tail, batch.part(2, 3).layout.tail) == (11, 10)
    assert [(part.layout.tail, part.size) for part in batch.unshared()] == [
        (11, Size(2, 2)),
        (10, Size(1, 1)),
    ]


@pytest.mark.parametrize("make", [lambda runs: questions(runs, 3, 1), uneven], ids=["", "uneven"])
@pytest.mark.parametrize("runs", [*SHARED, COUPLED], ids=str)
def test_planned_flops_are_executed(store, runs, make):
    check_planned_flops(Engine(families.model(), store), POLICIES, make(runs))


@pytest.mark.parametrize("runs", SHARED, ids=str)
def test_an_image_counts_once(store, runs):
    engine = Engine(families.model(), store)
    (chunk,) = engine.plan(POLICIES, questions(runs, 4)).chunks
    place = (chunk.trie, chunk.layout, engine.memory_budget.shape)
    assert chunk.batch.size == Size(4, images=1)
    apart = engine.plan(POLICIES, questions(runs, 1, 1, 1, 1))
    visual = trie_flops(*place, Size(0, images=1))
    assert engine.plan(POLICIES, questions(runs, 4)).flops == apart.flops - 3 * visual
    assert visual > 0.4 * trie_flops(*place, Size(1, images=0))
    assert trie_bytes(*place, 4, Size(4, images=1)) < trie_bytes(*place, 4, Size(4, images=4))


def test_what_differs_before_the_last_visual_token_is_not_shared():
    model, (first, same) = families.model(), questions([3, 4], 2)
    assert [batch.size for batch in gathered([first, same], model)] == [Size(2, 1)]
    ids = same.inputs["input_ids"].clone()
    ids[0, 1] += 1
    pixels = same.inputs["pixel_values"] + 1e-3
    for change in ({"input_ids": ids}, {"pixel_values": pixels}):
        inputs = {**same.inputs, **change}
        other = Sample(same.item, "other", inputs, same.n_visual, same.n_other)
        assert [batch.size for batch in gathered([first, other], model)] == [Size(2, 2)]
    coupled = questions(COUPLED, 2)
    assert [batch.size for batch in gathered(coupled, model)] == [Size(2, 2)]


def test_memory_takes_more_questions_than_images(store):
    model = families.model()
    (whole,) = Engine(model, store).plan(POLICIES, questions([3, 4], 6)).chunks
    shape = Shape.from_config(model.config)

    def chunks(memory, samples):
        plan = Engine(model, store, memory=memory).plan(POLICIES, samples)
        return [chunk.batch.size for chunk in plan.chunks]

    four = trie_bytes(whole.trie, whole.layout, shape, 4, Size(4, images=1))
    assert chunks(four, questions([3, 4], 6)) == [Size(4, 1), Size(2, 1)]
    # Questions on one image are grouped, in any input order.
    (first, *_) = chunks(four, questions([3, 4], 2, 2, 2))
    assert first.images < first.samples
    assert [part.batch.size for part in whole.halves()] == [Size(3, 1), Size(3, 1)]


@pytest.mark.parametrize("memory", [2 * 10**9, 60_000, 20_000])
def test_the_estimate_is_the_plan(store, memory):
    model = families.model()
    samples = [*questions([30, 4], 3, 1), *questions([0, 5], 2, 2), *uneven([3, 4])]
    shape, points = Shape.from_config(model.config), SPACE.points[:-1]
    policies = [SPACE.decode(point) for point in points.tolist()]
    planned = Engine(model, store, memory=memory).plan(policies, samples)
    said = estimate(SPACE, points, gathered(samples, model), MemoryBudget(shape, 4, memory))
    assert (said.flops, said.nodes) == (planned.flops, planned.nodes)
    assert said.passes == len(planned.chunks)
    assert said.samples == len(samples)
    assert said.forwards == pytest.approx(planned.forwards)


@dataclass(frozen=True)
class Shifted:
    """A ranker that starts at visual token `by`, and one further for each row of the batch."""

    by: int = 0
    nested = True
    needs = frozenset[str]()

    def rank(self, prompt, n):
        """Rank differently for each question on an image."""
        rows = torch.arange(len(prompt.visual))[:, None] + self.by
        total = prompt.n_visual[0]
        scores = -((torch.arange(total) - rows) % total)
        return ranking_from_scores(prompt.scatter(scores.flatten()), prompt.visual)


def test_an_image_that_is_ranked_in_two_ways_is_not_shared(store, monkeypatch):
    monkeypatch.setitem(RANKERS, "shifted", Shifted)
    model, samples, seen = families.model(), questions([3, 4], 3), []
    counts = np.random.default_rng(3).integers(1, 9, (5, LAYERS, 3))
    policies = [of_counts(each, RankerSpec("shifted")) for each in counts]
    engine = Engine(model, store)
    found = engine.measure(policies, samples, lambda *tick: seen.append(tick))
    for row, sample in enumerate(samples):
        own = [of_counts(each, RankerSpec("shifted", (("by", row),))) for each in counts]
        wanted = [alone(model, policy, sample) for policy in own]
        assert np.abs(found[:, row] - wanted).max() <= TOLERANCE
    # More work was done than planned, and it was counted.
    with Store(store.path.with_name("other.db"), {}) as other:
        planned = Engine(model, other).plan(policies, samples).flops
    assert planned < seen[-1][0] == seen[-1][1]
