"""Resizing of images, so that the processor makes fewer tokens of them.

Papers use this baseline for Qwen2.5-VL, whose number of visual tokens depends on the image size.
`run --images` searches among such sizes together with policies.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from opsearch.errors import ModelError, echo
from opsearch.policy.images import with_attributes

if TYPE_CHECKING:
    from opsearch.models.encoding import Sample


class Resize:
    """Resizing of images to fewer pixels, for families whose images keep their own size."""

    granularity: ClassVar[str] = "its images have whole rows and columns of tokens"

    def __init__(self, config: Any, processor: Any) -> None:
        from opsearch.models.families import FAMILIES, family_for

        lever = family_for(config.model_type).lever
        if lever is None or not lever.counts_tokens:
            known = (n for n, each in FAMILIES.items() if each.lever and each.lever.counts_tokens)
            raise ModelError(
                f"resize does not support family {echo(config.model_type)}, whose images do not "
                f"keep a size of their own; use a model of {', '.join(known)}"
            )
        self.config, self.processor, self.lever = config, processor, lever

    def reduced(self, samples: Sequence[Sample], tokens: int) -> list[Sample]:
        """Encode the items again, with each image resized to at most `tokens` visual tokens."""
        from opsearch.models.encoding import encode  # imports torch, which listing must not

        level = min(tokens, self.lever.most(self.processor))
        processor = with_attributes(self.processor, self.lever.attributes(self.processor, level))
        items = [sample.item for sample in samples]
        encoded = encode(items, processor, self.config, say=lambda note: None)  # said before
        pairs = zip(encoded, samples, strict=True)
        return [replace(small, digest=sample.digest) for small, sample in pairs]

    @contextmanager
    def applied(self, model: Any, tokens: int) -> Iterator[None]:
        """Do nothing, because the model accepts images of any size."""
        yield
