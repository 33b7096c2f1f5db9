"""What will be measured, in which passes and with how much work: known from shapes before any runs.

A chunk is one pass: policies that share a ranking, on samples of one layout. Samples are added as
memory allows; policies are split only where one sample's states would not fit, because policies
apart share less.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from opsearch.costs.flops import Flops
from opsearch.costs.shape import Shape
from opsearch.measure.crowds import Crowd
from opsearch.measure.families import families
from opsearch.measure.keys import Keyed
from opsearch.measure.nodes import Ints
from opsearch.measure.room import Room
from opsearch.measure.samples import Sample
from opsearch.measure.schedules import Schedules
from opsearch.measure.trie import Layout, Size, Trie
from opsearch.measure.work import held_elements, layer_flops
from opsearch.rankers import Ranker


@dataclass(frozen=True, eq=False)
class Chunk:
    """Policies that share a ranking and samples of one layout: one pass over the layers.

    ranker: None where the order of visual tokens before the decoder does not matter.
    """

    ranker: Ranker | None
    schedules: Schedules
    trie: Trie
    crowd: Crowd

    @property
    def policies(self) -> tuple[Keyed, ...]:
        """The policies."""
        return self.schedules.policies

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The samples, questions on one image together."""
        return self.crowd.samples

    @property
    def layout(self) -> Layout:
        """Where the samples have their tokens, and the longest ends."""
        return self.crowd.layout

    @property
    def place(self) -> tuple[str, ...]:
        """The samples, on which a worker that measures it runs the original."""
        return tuple(sample.digest for sample in self.samples)

    @property
    def content(self) -> str:
        """What it measures, in words."""
        return f"{len(self.policies)} policies on {len(self.samples)} samples"

    @property
    def pairs(self) -> int:
        """Measurements that it gives."""
        return len(self.policies) * len(self.samples)

    def layer_flops(self, shape: Shape) -> list[int]:
        """FLOPs (`exact`) of each layer of the pass."""
        return list(layer_flops(self.trie, self.layout, shape, self.crowd.size))

    def apart(self, rank: Tensor) -> Chunk:
        """The same where an image is shared only by samples that rank it alike, int64[B, S]."""
        return replace(self, crowd=self.crowd.apart(rank))

    def halves(self) -> list[Chunk]:
        """The same work in two chunks, by samples, then by policies; itself if it cannot be cut."""
        middle = len(self.samples) // 2
        if middle:
            parts = (self.crowd.part(0, middle), self.crowd.part(middle, len(self.samples)))
            return [replace(self, crowd=part) for part in parts]
        middle = len(self.policies) // 2
        cuts = [slice(0, middle), slice(middle, None)] if middle else [slice(None)]
        return [self._only(cut) for cut in cuts]

    def _only(self, cut: slice) -> Chunk:
        part = self.schedules.part(cut)
        return replace(self, schedules=part, trie=part.trie(self.layout.inner > 0))


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
        """States of text or visual rows behind a layer, summed over samples and images."""
        return sum(chunk.trie.nodes(chunk.crowd.size) for chunk in self.chunks)

    @property
    def flops(self) -> int:
        """FLOPs (`exact`) of all passes; the originals' own forwards come on top."""
        return sum(sum(chunk.layer_flops(self.shape)) for chunk in self.chunks)

    @property
    def forwards(self) -> float:
        """The same in forwards of the original, mean over the samples."""
        stock = Flops(self.shape).stock
        original = {
            sample.digest: stock(sample.n_visual, chunk.layout.head + tail)
            for chunk in self.chunks
            for sample, tail in zip(chunk.samples, chunk.crowd.tails, strict=True)
        }
        once = sum(original.values())
        return self.flops / once if once else 0.0


def make_chunks(
    policies: Sequence[Keyed], n_visual: int, gathered: Iterable[Crowd], room: Room
) -> Iterator[Chunk]:
    """Chunks of all these policies on all these samples of `n_visual` visual tokens."""
    related = families(policies, n_visual)
    for crowd in gathered:
        layout = crowd.layout
        parts = [(family, *part) for family in related for part in family.parts(layout, room)]
        held = [held_elements(trie, layout, room.shape) for _, _, trie in parts]
        for batch in batches(crowd, held, room):
            for family, part, trie in parts:
                for together in batch.alone() if trie.rankers else [batch]:
                    yield Chunk(family.ranker, part, trie, together)


def batches(crowd: Crowd, held: Sequence[Ints], room: Room) -> Iterator[Crowd]:
    """The crowd in parts as large as fit, of one sample at least.

    held: numbers that each pass holds per sample and image.
    """
    start, shown = 0, set[int]()
    for place, image in enumerate(crowd.images):
        size = Size(place + 1 - start, len(shown) + (image not in shown))
        if place > start and not all(room.holds(elements, size) for elements in held):
            yield crowd.part(start, place)
            start, shown = place, set()
        shown.add(image)
    yield crowd.part(start, len(crowd.images))
