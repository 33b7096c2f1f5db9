"""What measuring points of a space will take, from shapes alone: no model, no samples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opsearch.costs.flops import Flops
from opsearch.costs.shape import Shape
from opsearch.measure.trie import Layout, Size, build_trie
from opsearch.measure.work import trie_bytes, trie_flops
from opsearch.policy import live
from opsearch.spaces import Space

_POINTS_AT_ONCE = 16_384  # keeps the counts of one block of points below 16 MB at 40 layers


@dataclass(frozen=True)
class Estimate:
    """One pass over the tries of these policies on all samples.

    nodes: states of text or visual rows, summed over samples and images; flops: convention `exact`,
    without the original's own forwards, of which `forwards` are as many FLOPs, mean per sample.
    elements: numbers that the largest sample's states hold at once.
    """

    policies: int
    samples: int
    nodes: int
    flops: int
    forwards: float
    elements: int


def estimate(
    space: Space, points: NDArray[np.int64], layouts: Mapping[Layout, Size], shape: Shape
) -> Estimate:
    """The work for index rows `points` on so many samples and images of these layouts."""
    flops = nodes = elements = 0
    by_size: dict[int, list[Layout]] = defaultdict(list)
    for layout in layouts:
        by_size[layout.n_visual].append(layout)
    for start in range(0, len(points), _POINTS_AT_ONCE):
        for n_visual, alike in by_size.items():
            block = points[start : start + _POINTS_AT_ONCE]
            turns = space.turns(block, n_visual)
            counts = live(space.resolved(block, n_visual), turns.pools if turns else None)
            for coupled in {layout.inner > 0 for layout in alike}:
                trie = build_trie(counts, coupled, turns)
                for layout in (at for at in alike if (at.inner > 0) == coupled):
                    flops += trie_flops(trie, layout, shape, layouts[layout])
                    nodes += trie.nodes(layouts[layout])
                    elements = max(elements, trie_bytes(trie, layout, shape, 1))
    stock = Flops(shape).stock
    once = sum(size.samples * stock(at.n_visual, at.head + at.tail) for at, size in layouts.items())
    samples = sum(size.samples for size in layouts.values())
    return Estimate(len(points), samples, nodes, flops, flops / once if once else 0.0, elements)
