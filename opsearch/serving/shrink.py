"""Dropping of the visual tokens of a prompt that no layer needs, before the engine sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ImageSpan:
    """Rows of an image in a prompt.

    Attributes:
        offset: First row.
        embedded: Mask of the rows that are visual tokens, bool[rows]; others are text, as the
            marks before and after an image.
    """

    offset: int
    embedded: Tensor

    @property
    def n_visual(self) -> int:
        """Number of visual tokens."""
        return int(self.embedded.sum())


def visual_rows(length: int, images: Sequence[ImageSpan]) -> Tensor:
    """Return a mask of the visual rows of a prompt of `length` rows, bool[length]."""
    visual = torch.zeros(length, dtype=torch.bool)
    for image in images:
        visual[image.offset : image.offset + len(image.embedded)] |= image.embedded
    return visual


def prompt_images(features: Sequence[Any]) -> list[ImageSpan]:
    """Return the images of a request, by vLLM's features of them."""
    return [
        ImageSpan(each.mm_position.offset, embedded_rows(each.mm_position)) for each in features
    ]


def embedded_rows(placeholder: Any) -> Tensor:
    """Return the mask of the rows of one of vLLM's PlaceholderRanges that are visual tokens."""
    if placeholder.is_embed is None:
        return torch.ones(placeholder.length, dtype=torch.bool)
    mask: Tensor = placeholder.is_embed
    return mask.bool()


def shrink(
    tokens: Sequence[int], images: Sequence[ImageSpan], entering: Callable[[int], int]
) -> tuple[list[int], list[ImageSpan]]:
    """Drop the visual tokens that no layer needs.

    Which of several images keeps how many is known only after they are encoded and ranked, and so
    is which part of an image with text inside. Prompts of this kind are returned as they are.

    Args:
        tokens: Token ids of the prompt.
        images: Its images.
        entering: Returns the number of visual tokens, at least 1, that enter the decoder out of N.

    Returns:
        Token ids and images of the shorter prompt.
    """
    if len(images) != 1 or _interrupted(images[0].embedded):
        return list(tokens), list(images)
    (image,) = images
    inside = image.embedded.nonzero()[:, 0]
    gone = inside[entering(len(inside)) :]
    stays = torch.ones_like(image.embedded)
    stays[gone] = False
    keep = torch.ones(len(tokens), dtype=torch.bool)
    keep[image.offset + gone] = False
    shorter = [token for token, stay in zip(tokens, keep.tolist(), strict=True) if stay]
    return shorter, [ImageSpan(image.offset, image.embedded[stays])]


def _interrupted(embedded: Tensor) -> bool:
    """Return whether other tokens stand between the visual tokens of an image."""
    inside = embedded.nonzero()[:, 0]
    return len(inside) == 0 or int(inside[-1] - inside[0]) + 1 != len(inside)
