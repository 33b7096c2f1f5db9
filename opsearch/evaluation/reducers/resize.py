"""Resizing of images, so that the processor makes fewer tokens of them.

Papers use this baseline for Qwen2.5-VL, whose number of visual tokens depends on the image size.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from opsearch.errors import ModelError, echo

if TYPE_CHECKING:
    from opsearch.models.encoding import Sample

_FAMILIES = ("qwen2_5_vl",)


class Resize:
    """Resizing of images to fewer pixels, for Qwen2.5-VL."""

    granularity: ClassVar[str] = "its images have whole rows and columns of tokens"

    def __init__(self, config: Any, processor: Any) -> None:
        if config.model_type not in _FAMILIES:
            raise ModelError(
                f"resize does not support family {echo(config.model_type)}; use a model of "
                f"{_FAMILIES[0]}"
            )
        self.config, self.processor = config, processor

    def reduced(self, samples: Sequence[Sample], tokens: int) -> list[Sample]:
        """Encode the items again, with each image resized to at most `tokens` visual tokens."""
        from opsearch.models.encoding import encode  # imports torch, which listing must not

        processor = copy.deepcopy(self.processor)
        image_processor = processor.image_processor
        limit = tokens * (image_processor.patch_size * image_processor.merge_size) ** 2
        size = dict(image_processor.size)
        image_processor.size = {
            "shortest_edge": min(size["shortest_edge"], limit),
            "longest_edge": min(size["longest_edge"], limit),
        }
        items = [sample.item for sample in samples]
        encoded = encode(items, processor, self.config, say=lambda note: None)  # said before
        pairs = zip(encoded, samples, strict=True)
        return [replace(small, digest=sample.digest) for small, sample in pairs]

    @contextmanager
    def applied(self, model: Any, tokens: int) -> Iterator[None]:
        """Do nothing, because the model accepts images of any size."""
        yield
