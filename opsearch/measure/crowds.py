"""Which samples run in one batch, and which of them show the same picture.

As nothing looks ahead, visual rows and the text before them do not depend on the question behind
the image: all questions on one image share them. What enters the decoder so far is known from what
the processor made, before any weights are loaded.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from opsearch.measure.samples import Sample
from opsearch.measure.trie import Layout, Size
from opsearch.runtime.adapters import Adapter


@dataclass(frozen=True, eq=False)
class Crowd:
    """Samples whose tokens stand at the same places.

    samples: none where only their shapes are known. images: the number of each one's image; samples
    of one number have the same visual rows.
    """

    layout: Layout
    samples: tuple[Sample, ...]
    images: tuple[int, ...]

    @property
    def size(self) -> Size:
        """How many samples, of how many different images."""
        return Size(len(self.images), len(set(self.images)))

    def part(self, start: int, stop: int) -> Crowd:
        """Some of the samples."""
        return Crowd(self.layout, self.samples[start:stop], self.images[start:stop])

    def alone(self) -> Crowd:
        """The same, but no image is shared."""
        return replace(self, images=tuple(range(len(self.images))))

    def apart(self, rank: Tensor) -> Crowd:
        """The same, but an image is shared only where `rank` int64[B, S] is the same as well."""
        ranked = [row.tobytes() for row in rank.cpu().numpy()]
        return replace(self, images=_numbered(zip(self.images, ranked, strict=True)))


def crowds(samples: Sequence[Sample], adapter: Adapter, config: Any, answers: int) -> list[Crowd]:
    """The samples with visual tokens by where their tokens stand, questions on one image together.

    answers: positions whose logits are compared.
    """
    alike: dict[bytes, list[Sample]] = {}
    for sample in samples:
        visual = adapter.visual_positions(config, sample.inputs["input_ids"])[0].cpu().numpy()
        if visual.any():
            alike.setdefault(visual.tobytes(), []).append(sample)
    return [
        _crowd(members, np.frombuffer(visual, np.bool_), answers)
        for visual, members in alike.items()
    ]


def _crowd(members: Sequence[Sample], visual: NDArray[np.bool_], answers: int) -> Crowd:
    layout = Layout.of(visual, answers)
    behind = int(visual.nonzero()[0][-1]) + 1
    if layout.inner:  # visual rows depend on the text between them
        return Crowd(layout, tuple(members), tuple(range(len(members))))
    before = (sample.inputs["input_ids"][0, :behind].cpu() for sample in members)
    beginnings = [ids.numpy().tobytes() for ids in before]
    shown = [sample.pictures for sample in members]
    images = _numbered(zip(shown, beginnings, strict=True))
    order = sorted(range(len(members)), key=images.__getitem__)
    return Crowd(layout, tuple(members[i] for i in order), tuple(images[i] for i in order))


def _numbered(keys: Iterable[Hashable]) -> tuple[int, ...]:
    """Each key's place among the distinct ones, by first appearance."""
    numbers: dict[Hashable, int] = {}
    return tuple(numbers.setdefault(key, len(numbers)) for key in keys)
