"""Levers of image processors: what makes a processor give fewer visual tokens of an image.

A lever has levels, whole numbers from 1 up to that of the processor itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Any, ClassVar, Protocol

from opsearch.formatting import screen_repr
from opsearch.policy.images import Attributes

_LARGEST = "size.longest_edge"


class Lever(Protocol):
    """A lever of the image processors of a family."""

    @property
    def counts_tokens(self) -> bool:
        """True if a level is the largest number of visual tokens of an image."""

    def most(self, processor: Any) -> int:
        """Return the level of the processor itself."""

    def attributes(self, processor: Any, level: int) -> Attributes:
        """Return the attributes of the image processor at a level."""


@dataclass(frozen=True)
class Pixels:
    """The largest number of pixels of an image, whose size is otherwise its own.

    A level is a number of visual tokens.

    Attributes:
        frames: Attribute of the image processor with the frames that an image counts as; empty: it
            counts as one.
    """

    frames: str = ""
    counts_tokens: ClassVar[bool] = True

    __repr__ = screen_repr

    def most(self, processor: Any) -> int:
        """Return the largest number of visual tokens of an image."""
        images = processor.image_processor
        return ceil(int(images.size["longest_edge"]) / self._pixels(images))

    def attributes(self, processor: Any, level: int) -> Attributes:
        """Return the limits on pixels for at most `level` visual tokens per image."""
        images = processor.image_processor
        limit = min(level * self._pixels(images), int(images.size["longest_edge"]))
        fewest = min(int(images.size["shortest_edge"]), limit)
        return ((_LARGEST, limit), ("size.shortest_edge", fewest))

    def _pixels(self, images: Any) -> int:
        """Return the pixels of a visual token."""
        frames = getattr(images, self.frames) if self.frames else 1
        return int((images.patch_size * images.merge_size) ** 2 * frames)


@dataclass(frozen=True)
class Tiles:
    """The largest number of tiles that an image is cut into.

    Attributes:
        attribute: Attribute of the image processor with this number.
    """

    attribute: str
    counts_tokens: ClassVar[bool] = False

    __repr__ = screen_repr

    def most(self, processor: Any) -> int:
        """Return the largest number of tiles."""
        return int(getattr(processor.image_processor, self.attribute))

    def attributes(self, processor: Any, level: int) -> Attributes:
        """Return the attribute for at most `level` tiles."""
        return ((self.attribute, level),)


@dataclass(frozen=True)
class Side:
    """The largest length of an image's longer side.

    Attributes:
        unit: Returns the pixels of a side that make one more token, or one more tile, of a
            processor.
    """

    unit: Callable[[Any], int]
    counts_tokens: ClassVar[bool] = False

    __repr__ = screen_repr

    def most(self, processor: Any) -> int:
        """Return the units of the longer side."""
        return ceil(int(processor.image_processor.size["longest_edge"]) / self.unit(processor))

    def attributes(self, processor: Any, level: int) -> Attributes:
        """Return the limit on the longer side of `level` units."""
        own = int(processor.image_processor.size["longest_edge"])
        return ((_LARGEST, min(level * self.unit(processor), own)),)
