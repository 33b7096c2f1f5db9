"""Which samples run in one batch, and which of them show the same picture.

As nothing looks ahead, visual rows and the text before them do not depend on the question behind
the image: all questions on one image share them. Questions of nearly the same length are padded to
the longest, as rows behind their end are seen by none. What enters the decoder so far is known from
what the processor made, before any weights are loaded.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from opsearch.measure.samples import Sample
from opsearch.measure.trie import Layout, Size
from opsearch.runtime.adapters import ModelFamily

# A question is padded to the longest on its image that is no more than a quarter longer than it.
_PADDED = 1.25


@dataclass(frozen=True, eq=False)
class Crowd:
    """Samples whose visual tokens stand at the same places.

    layout: that of the longest sample; the tails of others are padded. samples: none where only
    their shapes are known. images: the number of each one's image; samples of one number have the
    same visual rows.
    """

    layout: Layout
    samples: tuple[Sample, ...]
    images: tuple[int, ...]

    @property
    def size(self) -> Size:
        """How many samples, of how many different images."""
        return Size(len(self.images), len(set(self.images)))

    @cached_property
    def tails(self) -> list[int]:
        """Rows of each sample's own tail, answer positions included."""
        if not self.samples:
            return [self.layout.tail] * len(self.images)
        beyond = self.layout.answers - 1 - self.layout.head
        return [sample.n_other + beyond for sample in self.samples]

    @property
    def equally_long(self) -> list[list[int]]:
        """Places of samples whose tails need no padding beside each other."""
        alike: dict[int, list[int]] = {}
        for place, tail in enumerate(self.tails):
            alike.setdefault(tail, []).append(place)
        return list(alike.values())

    def part(self, start: int, stop: int) -> Crowd:
        """Some of the samples."""
        return self._only(range(start, stop))

    def alone(self) -> list[Crowd]:
        """The same, but no image is shared and no tail padded."""
        apart = replace(self, images=tuple(range(len(self.images))))
        return [apart._only(places) for places in self.equally_long]

    def apart(self, rank: Tensor) -> Crowd:
        """The same, but an image is shared only where `rank` int64[B, S] is the same as well."""
        ranked = [row.tobytes() for row in rank.cpu().numpy()]
        return replace(self, images=_numbered(zip(self.images, ranked, strict=True)))

    def _only(self, places: Sequence[int]) -> Crowd:
        longest = max(self.tails[place] for place in places)
        return Crowd(
            replace(self.layout, tail=longest),
            tuple(self.samples[place] for place in places if self.samples),
            tuple(self.images[place] for place in places),
        )


def crowds(
    samples: Sequence[Sample], family: ModelFamily, config: Any, answers: int
) -> list[Crowd]:
    """The samples with visual tokens by where these stand, questions on one image together.

    answers: positions whose logits are compared.
    """
    alike: dict[tuple[bytes, int], list[list[Sample]]] = {}
    for image in _images(samples, family, config):
        visual = family.visual_positions(config, image[0].inputs["input_ids"])[0].cpu().numpy()
        alike.setdefault((visual.tobytes(), image[0].n_other), []).append(image)
    return [
        Crowd(
            Layout.of(np.frombuffer(visual, np.bool_), answers),
            tuple(sample for image in images for sample in image),
            tuple(number for number, image in enumerate(images) for _ in image),
        )
        for (visual, _), images in alike.items()
    ]


def _images(samples: Sequence[Sample], family: ModelFamily, config: Any) -> Iterator[list[Sample]]:
    """Samples that share what stands before the text behind the image, the longest first."""
    found: dict[Hashable, list[Sample]] = {}
    for number, sample in enumerate(samples):
        ids = sample.inputs["input_ids"]
        (places,) = family.visual_positions(config, ids)[0].cpu().numpy().nonzero()
        if len(places):
            behind = int(places[-1]) + 1
            beginning = ids[0, :behind].cpu().numpy().tobytes()
            coupled = behind - int(places[0]) > len(places)  # by the text between visual tokens
            alone = number if coupled else None
            found.setdefault((sample.pictures, beginning, alone), []).append(sample)
    for image in found.values():
        rest = sorted(image, key=lambda sample: sample.n_other, reverse=True)
        while rest:
            near = [each for each in rest if rest[0].n_other <= _PADDED * each.n_other]
            yield near
            rest = rest[len(near) :]


def _numbered(keys: Iterable[Hashable]) -> tuple[int, ...]:
    """Each key's place among the distinct ones, by first appearance."""
    numbers: dict[Hashable, int] = {}
    return tuple(numbers.setdefault(key, len(numbers)) for key in keys)
