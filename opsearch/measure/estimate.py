"""What measuring points of a space will take, from shapes alone: no model, no samples.

Policies are cut and samples are batched as the engine does it in the same room.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opsearch.costs.flops import Flops
from opsearch.measure.chunks import batches
from opsearch.measure.crowds import Crowd
from opsearch.measure.cuts import Cuts
from opsearch.measure.room import Room
from opsearch.measure.tables import Tables
from opsearch.measure.trie import ONE, Layout, Size
from opsearch.measure.work import trie_flops
from opsearch.policy import live
from opsearch.rankers import make_ranker
from opsearch.spaces import Space
from opsearch.turns import before_decoder


@dataclass(frozen=True)
class Estimate:
    """Passes over the tries of these policies on all samples.

    nodes: states of text or visual rows, summed over samples and images; flops: convention `exact`,
    without the original's own forwards, of which `forwards` are as many FLOPs, mean per sample.
    elements: numbers that the largest sample's states hold at once; parts: the most into which
    memory cuts the policies of one ranking; passes: of a part on a batch of samples each.
    """

    policies: int
    samples: int
    nodes: int
    flops: int
    forwards: float
    elements: int
    parts: int
    passes: int


@dataclass
class _Work:
    """What adds up to an estimate."""

    nodes: int = 0
    flops: int = 0
    elements: int = 0
    parts: int = 0
    passes: int = 0


def estimate(
    space: Space, points: NDArray[np.int64], gathered: Sequence[Crowd], room: Room
) -> Estimate:
    """The work for index rows `points` on samples of these layouts, each crowd of another one."""
    work, alike = _Work(), defaultdict[int, list[Crowd]](list)
    for crowd in gathered:
        alike[crowd.layout.n_visual].append(crowd)
    for n_visual, crowds in alike.items():
        related = [Cuts(tables) for tables in _families(space, points, n_visual)]
        _add(work, related, crowds, room)
    stock = Flops(room.shape).stock
    lengths = [(at.layout, tail) for at in gathered for tail in at.tails]
    once = sum(stock(layout.n_visual, layout.head + tail) for layout, tail in lengths)
    forwards, samples = work.flops / once if once else 0.0, len(lengths)
    numbers = work.nodes, work.flops, forwards, work.elements, work.parts, work.passes
    return Estimate(len(points), samples, *numbers)


def _add(work: _Work, related: Sequence[Cuts], crowds: Iterable[Crowd], room: Room) -> None:
    """Add what these families take on crowds of equally many visual tokens."""
    # Crowds with the same cuts have the same tries.
    same: dict[tuple[int, bool, tuple[range, ...]], list[Crowd]] = {}
    for crowd in crowds:
        layout = crowd.layout
        cuts = [each.fitting(layout, room) for each in related]
        held = [
            each.held(parts, layout, room.shape).reshape(-1, 2)
            for each, parts in zip(related, cuts, strict=True)
        ]
        runs = list(batches(crowd, held, room))
        widest = [int((each @ np.array(ONE)).max()) for each in held]
        work.elements, work.parts = (
            max([work.elements, *widest]),
            max([work.parts, *map(len, cuts)]),
        )
        for number, cut in enumerate(cuts):
            ranked = related[number].tables.turns is not None
            together = [each for run in runs for each in (run.alone() if ranked else [run])]
            work.passes += len(cut) * len(together)
            same.setdefault((number, layout.inner > 0, tuple(cut)), []).extend(together)
    for (number, coupled, ranges), runs in same.items():
        for _, trie in related[number].forests(ranges, coupled):
            for at, size in _totals(runs).items():
                work.flops += trie_flops(trie, at, room.shape, size)
                work.nodes += trie.nodes(size)


def _totals(runs: Iterable[Crowd]) -> dict[Layout, Size]:
    """Samples and images of all batches by layout; an image counts once in each that has it."""
    found: dict[Layout, Size] = {}
    for run in runs:
        before, more = found.get(run.layout, Size(0, 0)), run.size
        found[run.layout] = Size(before.samples + more.samples, before.images + more.images)
    return found


def _families(space: Space, points: NDArray[np.int64], n_visual: int) -> list[Tables]:
    """The policies as `families` has them: distinct, without the original, by their ranking."""
    if not len(points):
        return []
    turns = space.turns(points, n_visual)
    counts = live(space.resolved(points, n_visual), turns.pools if turns else None)
    whole = live(np.full_like(counts[:1], n_visual))
    pruned = np.flatnonzero((counts != whole).any(axis=(1, 2)))
    tables = Tables(counts, turns).part(pruned)
    if not len(pruned):
        return []
    spec = before_decoder(space.decode(points[0].tolist()))
    ordered = tables.distinct()
    if spec is None or make_ranker(spec).nested:
        return [tables.part(ordered)]
    # Ranked anew for each count; where all tokens are kept any order will do, the first.
    kept = np.where(tables.counts < n_visual, tables.counts, 0).max(axis=(1, 2))
    orders = list(dict.fromkeys(kept[kept > 0].tolist())) or [0]
    kept[kept == 0] = orders[0]
    return [tables.part(ordered[kept[ordered] == count]) for count in orders]
