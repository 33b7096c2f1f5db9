"""What will be measured, in which passes and with how much work: known from shapes before any runs.

A chunk is one pass: policies that share a ranking, on samples of one layout. Samples are added as
memory allows; policies are split only where one sample's states would not fit, because policies
apart share less.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from opsearch.costs.flops import Flops
from opsearch.costs.shape import Shape
from opsearch.measure.families import Room, families
from opsearch.measure.keys import Keyed
from opsearch.measure.samples import Sample
from opsearch.measure.trie import Layout, Trie, build_trie
from opsearch.measure.work import trie_flops
from opsearch.policy import Counts
from opsearch.rankers import Ranker


@dataclass(frozen=True, eq=False)
class Chunk:
    """Policies that share a ranking and samples of one layout: one pass over the layers.

    ranker: None where the order of visual tokens does not matter; counts: live, int64[P, L, 3].
    """

    ranker: Ranker | None
    policies: tuple[Keyed, ...]
    counts: Counts
    trie: Trie
    samples: tuple[Sample, ...]
    layout: Layout

    @property
    def pairs(self) -> int:
        """Measurements that it gives."""
        return len(self.policies) * len(self.samples)

    def halves(self) -> list[Chunk]:
        """The same work in two chunks, by samples, then by policies; itself if it cannot be cut."""
        middle = len(self.samples) // 2
        if middle:
            parts = (self.samples[:middle], self.samples[middle:])
            return [replace(self, samples=samples) for samples in parts]
        middle = len(self.policies) // 2
        cuts = [slice(0, middle), slice(middle, None)] if middle else [slice(None)]
        return [self._only(cut) for cut in cuts]

    def _only(self, cut: slice) -> Chunk:
        counts = self.counts[cut]
        trie = build_trie(counts, self.layout.inner > 0)
        return replace(self, policies=self.policies[cut], counts=counts, trie=trie)


@dataclass(frozen=True)
class MeasurementPlan:
    """The chunks of one call in their order, for a decoder of this shape."""

    chunks: tuple[Chunk, ...]
    shape: Shape

    @property
    def pairs(self) -> int:
        """Measurements of a policy on a sample."""
        return sum(chunk.pairs for chunk in self.chunks)

    @property
    def nodes(self) -> int:
        """States of text or visual rows behind a layer, summed over samples."""
        return sum(chunk.trie.nodes * len(chunk.samples) for chunk in self.chunks)

    @property
    def flops(self) -> int:
        """FLOPs (`exact`) of all passes; the originals' own forwards come on top."""
        return sum(
            trie_flops(chunk.trie, chunk.layout, self.shape) * len(chunk.samples)
            for chunk in self.chunks
        )

    @property
    def forwards(self) -> float:
        """The same in forwards of the original, mean over the samples."""
        layouts = {s.digest: chunk.layout for chunk in self.chunks for s in chunk.samples}
        stock = Flops(self.shape).stock
        once = sum(stock(at.n_visual, at.head + at.tail) for at in layouts.values())
        return self.flops / once if once else 0.0


def make_chunks(
    policies: Sequence[Keyed],
    n_visual: int,
    samples: Sequence[tuple[Sample, NDArray[np.bool_]]],
    answers: int,
    room: Room,
) -> Iterator[Chunk]:
    """Chunks of all these policies on all these samples of `n_visual` visual tokens.

    samples: each with its visual positions, bool[S]; answers: positions whose logits are compared.
    """
    related = families(policies, n_visual)
    alike: dict[bytes, list[tuple[Sample, Layout]]] = {}
    for sample, visual in samples:
        placed = (sample, Layout.of(visual, answers))
        alike.setdefault(visual.tobytes(), []).append(placed)
    for members in alike.values():
        layout = members[0][1]
        parts = [(family, *part) for family in related for part in family.parts(layout, room)]
        width = max(1, min(room.samples(trie, layout) for _, _, trie in parts))
        for start in range(0, len(members), width):
            batch = tuple(sample for sample, _ in members[start : start + width])
            for family, cut, trie in parts:
                kept = family.policies[cut], family.counts[cut]
                yield Chunk(family.ranker, *kept, trie, batch, layout)
