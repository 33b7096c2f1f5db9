"""Grouping of samples into batches, and of samples that share an image.

Where attention is causal, or reaches to the end of an image, visual rows and the text before them
do not depend on the question after the image, and all questions on one image share them. Questions
of nearly equal length are padded to the longest, since no row attends to the padding behind it. The
decoder's inputs are known from the processor's outputs, so that batches form before any weights are
loaded.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from opsearch.measure.layout import Layout, Size

if TYPE_CHECKING:
    from torch import Tensor

    from opsearch.models.encoding import Sample
    from opsearch.models.families import ModelFamily

# Largest ratio of the longest question on an image to one that is padded to it.
_MAX_PADDING = 1.25


@dataclass(frozen=True, eq=False)
class SampleBatch:
    """A batch of samples with identical visual-token positions.

    Attributes:
        layout: Layout of the longest sample; shorter tails are padded.
        samples: The samples, empty where only shapes are known.
        images: Image index of each sample; samples with equal indices share their visual rows.
    """

    layout: Layout
    samples: tuple[Sample, ...]
    images: tuple[int, ...]

    @property
    def size(self) -> Size:
        """Number of samples and of distinct images."""
        return Size(len(self.images), len(set(self.images)))

    @cached_property
    def tails(self) -> list[int]:
        """Length of each sample's tail, answer positions included."""
        if not self.samples:
            return [self.layout.tail] * len(self.images)
        beyond = self.layout.answers - 1 - self.layout.head
        return [sample.n_other + beyond for sample in self.samples]

    @property
    def by_tail_length(self) -> list[list[int]]:
        """Indices of samples grouped by equal tail length, which need no padding."""
        groups: dict[int, list[int]] = {}
        for index, tail in enumerate(self.tails):
            groups.setdefault(tail, []).append(index)
        return list(groups.values())

    def part(self, start: int, stop: int) -> SampleBatch:
        """Return the samples from `start` to `stop`."""
        return self._subset(range(start, stop))

    def unshared(self) -> list[SampleBatch]:
        """Return batches of the same samples without shared images and without padding."""
        split = replace(self, images=tuple(range(len(self.images))))
        return [split._subset(indices) for indices in self.by_tail_length]

    def with_images_split(self, rank: Tensor) -> SampleBatch:
        """Return the same samples, sharing an image only where `rank` int64[B, S] is equal too."""
        ranked = [row.tobytes() for row in rank.cpu().numpy()]
        return replace(self, images=_numbers(zip(self.images, ranked, strict=True)))

    def _subset(self, indices: Sequence[int]) -> SampleBatch:
        longest = max(self.tails[index] for index in indices)
        return SampleBatch(
            replace(self.layout, tail=longest),
            tuple(self.samples[index] for index in indices if self.samples),
            tuple(self.images[index] for index in indices),
        )


def group_samples(
    samples: Sequence[Sample], family: ModelFamily, config: Any, answers: int
) -> list[SampleBatch]:
    """Return the samples that have visual tokens, in batches of equal visual positions.

    Questions on one image are adjacent.

    Args:
        samples: Encoded samples.
        family: The model family.
        config: The model's configuration.
        answers: Answer positions whose logits are compared.
    """
    groups: dict[tuple[bytes, int], list[list[Sample]]] = {}
    for image in _image_groups(samples, family, config):
        visual = family.visual_positions(config, image[0].inputs["input_ids"])[0].cpu().numpy()
        groups.setdefault((visual.tobytes(), image[0].n_other), []).append(image)
    return [
        SampleBatch(
            Layout.of(np.frombuffer(visual, np.bool_), answers, family.attends == "prompt"),
            tuple(sample for image in images for sample in image),
            tuple(number for number, image in enumerate(images) for _ in image),
        )
        for (visual, _), images in groups.items()
    ]


def _image_groups(
    samples: Sequence[Sample], family: ModelFamily, config: Any
) -> Iterator[list[Sample]]:
    """Yield samples that share everything before the question, longest first."""
    by_prefix: dict[Hashable, list[Sample]] = {}
    for number, sample in enumerate(samples):
        ids = sample.inputs["input_ids"]
        (positions,) = family.visual_positions(config, ids)[0].cpu().numpy().nonzero()
        if len(positions):
            end = int(positions[-1]) + 1
            prefix = ids[0, :end].cpu().numpy().tobytes()
            # Text that visual tokens attend to prevents sharing.
            coupled = end - int(positions[0]) > len(positions) or family.attends == "prompt"
            own = number if coupled else None
            by_prefix.setdefault((sample.images_digest, prefix, own), []).append(sample)
    for image in by_prefix.values():
        remaining = sorted(image, key=lambda sample: sample.n_other, reverse=True)
        while remaining:
            similar = [
                each for each in remaining if remaining[0].n_other <= _MAX_PADDING * each.n_other
            ]
            yield similar
            remaining = remaining[len(similar) :]


def _numbers(keys: Iterable[Hashable]) -> tuple[int, ...]:
    """Return the index of each key among the distinct keys, by first appearance."""
    numbers: dict[Hashable, int] = {}
    return tuple(numbers.setdefault(key, len(numbers)) for key in keys)
