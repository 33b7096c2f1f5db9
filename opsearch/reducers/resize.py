"""Resizing: fewer pixels into the processor, so that it makes fewer tokens of a picture.

What papers do with Qwen2.5-VL, whose number of visual tokens follows the picture's size.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from opsearch.errors import ModelError
from opsearch.measure.samples import Sample, encode

_FREE = ("qwen2_5_vl",)  # families that take a picture in any size


class Resize:
    """Fewer pixels into the processor, so that it makes fewer tokens; Qwen2.5-VL."""

    def __init__(self, config: Any, processor: Any) -> None:
        if config.model_type not in _FREE:
            raise ModelError(
                f"resize cannot give family {config.model_type!r} fewer tokens: its pictures "
                f"have fixed numbers of them, whatever their size; use a model of {_FREE[0]}"
            )
        self.config, self.processor = config, processor

    def reduced(self, samples: Sequence[Sample], tokens: int) -> list[Sample]:
        """The items anew, each picture within the pixels of so many tokens."""
        processor = copy.deepcopy(self.processor)
        pictures = processor.image_processor
        limit = tokens * (pictures.patch_size * pictures.merge_size) ** 2
        size = dict(pictures.size)
        pictures.size = {
            "shortest_edge": min(size["shortest_edge"], limit),
            "longest_edge": min(size["longest_edge"], limit),
        }
        encoded = encode([sample.item for sample in samples], processor, self.config)
        pairs = zip(encoded, samples, strict=True)
        return [replace(small, digest=sample.digest) for small, sample in pairs]

    @contextmanager
    def applied(self, model: Any, tokens: int) -> Iterator[None]:
        """Nothing: the model takes pictures of any size."""
        yield
