"""Estimates of the measurement work of a space from shapes alone, without model or samples.

Policies are partitioned and samples are batched exactly as in the engine with the same memory.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opsearch.costs.flops import Flops
from opsearch.measure.layout import ONE, Layout, Size
from opsearch.measure.planning.batches import SampleBatch
from opsearch.measure.planning.chunks import fitting_batches
from opsearch.measure.planning.flops import trie_flops
from opsearch.measure.planning.memory import MemoryBudget
from opsearch.measure.planning.partition import PolicyPartition
from opsearch.measure.planning.policy_tables import PolicyTables
from opsearch.policy.counts import live
from opsearch.policy.schedule import before_decoder
from opsearch.problem.spaces.base import Space
from opsearch.rankers import make_ranker


@dataclass(frozen=True)
class Estimate:
    """Work of measuring policies on samples.

    Attributes:
        policies: Number of policies.
        samples: Number of samples.
        nodes: Node states, summed over samples (text) and images (visual).
        flops: FLOPs by the convention `exact`, without the original's own forwards.
        forwards: The FLOPs in forwards of the original, mean per sample.
        elements: Elements of the states that the largest sample holds at once.
        parts: Largest number of parts into which memory splits the policies of one ranking.
        passes: Passes of one part on one batch of samples.
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
class _Totals:
    """Sums of an estimate.

    Attributes:
        nodes: As in `Estimate`.
        flops: As in `Estimate`.
        elements: As in `Estimate`.
        parts: As in `Estimate`.
        passes: As in `Estimate`.
    """

    nodes: int = 0
    flops: int = 0
    elements: int = 0
    parts: int = 0
    passes: int = 0


def estimate(
    space: Space, points: NDArray[np.int64], batches: Sequence[SampleBatch], memory: MemoryBudget
) -> Estimate:
    """Estimate the work for points (index rows) of a space on these batches.

    Args:
        space: The search space.
        points: Index rows int64[P, parameters].
        batches: One batch per layout.
        memory: Limit on the states of a pass.
    """
    totals, by_visual = _Totals(), defaultdict[int, list[SampleBatch]](list)
    for batch in batches:
        by_visual[batch.layout.n_visual].append(batch)
    for n_visual, same_visual in by_visual.items():
        partitions = [PolicyPartition(tables) for tables in _policy_groups(space, points, n_visual)]
        _add(totals, partitions, same_visual, memory)
    stock = Flops(memory.shape).stock
    lengths = [(at.layout, tail) for at in batches for tail in at.tails]
    once = sum(stock(layout.n_visual, layout.head + tail) for layout, tail in lengths)
    return Estimate(
        policies=len(points),
        samples=len(lengths),
        nodes=totals.nodes,
        flops=totals.flops,
        forwards=totals.flops / once if once else 0.0,
        elements=totals.elements,
        parts=totals.parts,
        passes=totals.passes,
    )


def _add(
    totals: _Totals,
    partitions: Sequence[PolicyPartition],
    same_visual: Iterable[SampleBatch],
    memory: MemoryBudget,
) -> None:
    """Add the work of these policies on batches with an equal number of visual tokens."""
    # Batches with equal parts have equal tries.
    by_parts: dict[tuple[int, bool, tuple[range, ...]], list[SampleBatch]] = {}
    for batch in same_visual:
        layout = batch.layout
        part_ranges = [each.fitting_parts(layout, memory) for each in partitions]
        held = [
            each.elements(parts, layout, memory.shape).reshape(-1, 2)
            for each, parts in zip(partitions, part_ranges, strict=True)
        ]
        batches = list(fitting_batches(batch, held, memory))
        widest = [int((each @ np.array(ONE)).max()) for each in held]
        totals.elements = max([totals.elements, *widest])
        totals.parts = max([totals.parts, *map(len, part_ranges)])
        for number, ranges_of_group in enumerate(part_ranges):
            ranked = partitions[number].tables.rerankings is not None
            run_batches = [
                each for batch in batches for each in (batch.unshared() if ranked else [batch])
            ]
            totals.passes += len(ranges_of_group) * len(run_batches)
            key = (number, layout.coupled, tuple(ranges_of_group))
            by_parts.setdefault(key, []).extend(run_batches)
    for (number, coupled, ranges), batches in by_parts.items():
        for _, trie in partitions[number].forests(ranges, coupled):
            for at, size in _sizes_by_layout(batches).items():
                totals.flops += trie_flops(trie, at, memory.shape, size)
                totals.nodes += trie.nodes(size)


def _sizes_by_layout(batches: Iterable[SampleBatch]) -> dict[Layout, Size]:
    """Sum samples and images of all batches by layout; each batch counts its own images."""
    sizes: dict[Layout, Size] = {}
    for batch in batches:
        before, more = sizes.get(batch.layout, Size(0, 0)), batch.size
        sizes[batch.layout] = Size(before.samples + more.samples, before.images + more.images)
    return sizes


def _policy_groups(space: Space, points: NDArray[np.int64], n_visual: int) -> list[PolicyTables]:
    """Return distinct pruned policies grouped by ranking, as `ranking_groups` does."""
    if not len(points):
        return []
    rerankings = space.rerankings(points, n_visual)
    counts = live(
        space.resolved(points, n_visual), rerankings.candidates_by_layer if rerankings else None
    )
    unpruned = live(np.full_like(counts[:1], n_visual))
    pruned = np.flatnonzero((counts != unpruned).any(axis=(1, 2)))
    tables = PolicyTables(counts, rerankings).part(pruned)
    if not len(pruned):
        return []
    spec = before_decoder(space.decode(points[0].tolist()))
    ordered = tables.distinct()
    if spec is None or make_ranker(spec).nested:
        return [tables.part(ordered)]
    # One order per number of kept tokens; policies that keep all tokens join the first.
    kept = np.where(tables.counts < n_visual, tables.counts, 0).max(axis=(1, 2))
    orders = list(dict.fromkeys(kept[kept > 0].tolist())) or [0]
    kept[kept == 0] = orders[0]
    return [tables.part(ordered[kept[ordered] == count]) for count in orders]
