"""Distribution of chunks to workers: even cuts, sample affinity, retries after a loss."""

from dataclasses import replace
from fractions import Fraction

import pytest

from opsearch.errors import OpsearchError
from opsearch.measure.engine import Engine
from opsearch.measure.storage.store import Store
from opsearch.measure.workers.queue import Queue, shared
from opsearch.problem.spaces.depth import dop_space
from tests.measure import families
from tests.measure.families import CLS, LAYERS
from tests.support.messages import refuses


@pytest.fixture(scope="module")
def plan(tmp_path_factory):
    """Return a plan of two chunks: 13 policies on 12 samples of one layout and 3 of another."""
    space = dop_space(LAYERS, [Fraction(1, 2)], CLS)
    policies = [space.decode(point) for point in space.points.tolist()]
    samples = [families.sample([3, 4], seed) for seed in range(12)]
    samples += [families.sample([2, 3, 4], seed) for seed in range(3)]
    with Store(tmp_path_factory.mktemp("store") / "m.db", {}) as store:
        return Engine(families.model(), store).plan(policies, samples)


def pairs(plan):
    return sorted(
        (keyed.key, sample.digest)
        for chunk in plan.chunks
        for keyed in chunk.policies
        for sample in chunk.samples
    )


def apart(plan):
    """Return six chunks: three samples, each with the policies in two halves."""
    chunk = plan.chunks[0]
    a, b, c = (replace(chunk, batch=chunk.batch.part(i, i + 1)) for i in range(3))
    return [part for each in (a, b, c) for part in each.halves()]


@pytest.mark.parametrize("workers", [1, 2, 3, 50])
def test_cutting_for_workers_keeps_all_work_and_adds_none(plan, workers):
    cut = shared(plan, workers)
    assert pairs(cut) == pairs(plan)
    assert cut.flops == plan.flops
    work = [replace(plan, chunks=(chunk,)).flops for chunk in cut.chunks]
    assert work == sorted(work, reverse=True)
    ends = [0] * workers
    for flops in work:
        ends[ends.index(min(ends))] += flops
    share = plan.flops / workers
    even = work[0] <= share / 2 and max(ends) <= 17 / 16 * share
    sizes = [len(chunk.samples) for chunk in cut.chunks]
    assert even or all(n == 1 or w <= share / 16 for n, w in zip(sizes, work, strict=True))


def test_nothing_is_cut_that_is_even_already(plan):
    cut = shared(plan, 2)
    assert sorted(len(chunk.samples) for chunk in cut.chunks) == [1, 2, 3, 3, 3, 3]
    assert shared(cut, 2).chunks == cut.chunks == shared(cut, 1).chunks


def test_short_chunks_are_not_cut_for_long_ones_that_cannot_be(plan):
    """Nine long chunks on two workers stay uneven, so cutting the short one does not help."""
    whole = plan.chunks[0]
    long = [replace(whole, batch=whole.batch.part(i, i + 1)) for i in range(9)]
    one = whole.schedules.part(slice(0, 1))
    short = replace(long[0], schedules=one, trie=one.trie(False), batch=whole.batch.part(9, 11))
    uneven = replace(plan, chunks=(*long, short))
    assert shared(uneven, 2).chunks == uneven.chunks


def test_a_worker_goes_on_with_its_samples_and_leaves_those_of_others(plan):
    chunks = apart(plan)
    queue, mine, others = Queue(chunks), set(), set()
    taken = []
    for _ in range(2):
        for seen, unseen in ((mine, others), (others, mine)):
            taken.append(queue.take(seen, seen | unseen))
            seen.add(taken[-1].affinity)
    assert taken == [chunks[0], chunks[2], chunks[1], chunks[3]]
    assert queue.take(mine, mine | others) is chunks[4]
    assert queue.take(others, mine | others | {chunks[4].affinity}) is chunks[5]
    assert len(queue) == 0


def test_a_lost_chunk_comes_next_and_is_given_up_at_the_third_loss(plan):
    chunks = apart(plan)
    queue = Queue(chunks)
    for _ in range(2):
        lost = queue.take(set(), set())
        assert lost is chunks[0]
        queue.put_back(lost, "process died")
    assert len(queue) == len(chunks)
    work = f"{len(chunks[0].policies)} policies", "1 sample"
    with refuses(OpsearchError, "3 workers", *work, "process died", "--memory", "--workers"):
        queue.put_back(queue.take(set(), set()), "process died")
