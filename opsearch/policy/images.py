"""Image settings: attributes of an image processor with which it makes fewer visual tokens."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from opsearch.errors import PolicyError, echo

Attributes = tuple[tuple[str, int], ...]
"""Attributes of an image processor by name; an entry of a dictionary is `size.longest_edge`."""


@dataclass(frozen=True)
class ImageSetting:
    """Settings of a model's own image processor.

    Attributes:
        share: Share of the processor's own visual tokens for which the setting was chosen.
        attributes: Attributes of the image processor.
    """

    share: Fraction
    attributes: Attributes

    def __str__(self) -> str:
        named = ", ".join(f"{name}={value}" for name, value in self.attributes)
        return f"{self.share} of the visual tokens ({named})"

    def applied(self, processor: Any) -> Any:
        """Return a copy of a processor with this setting.

        Args:
            processor: The model's processor, which stays as it is.

        Raises:
            PolicyError: Its image processor has no such attribute.
        """
        return with_attributes(processor, self.attributes)


def with_attributes(processor: Any, attributes: Attributes) -> Any:
    """Return a copy of a processor whose image processor has these attributes.

    Raises:
        PolicyError: The image processor has no such attribute, or one that is no number.
    """
    changed = copy.deepcopy(processor)
    images = changed.image_processor
    for path, value in attributes:
        name, _, entry = path.partition(".")
        present = getattr(images, name, None)
        entries = dict(present) if entry and present is not None else {}
        if type(entries.get(entry) if entry else present) is not int:
            raise PolicyError(
                f"{type(images).__name__} has no number {echo(path)}, which the image setting of "
                "the policy changes; give the processor of the model that was searched"
            )
        setattr(images, name, {**entries, entry: value} if entry else value)
    return changed
