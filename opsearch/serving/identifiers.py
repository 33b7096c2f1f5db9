"""Sizes of images that travel from the processor to the workers in vLLM's identifiers of them.

vLLM sends an identifier with each image, by which caches find it, and nothing else that a plug-in
may set and that is there even where the image itself is cached. It must be the same in all prompts.
"""

from __future__ import annotations

from typing import Any


def mark(identifier: str, n_visual: int) -> str:
    """Return an identifier with the number of visual tokens before any was dropped.

    Args:
        identifier: vLLM's identifier.
        n_visual: Number of visual tokens of the image.
    """
    return f"{identifier}-{n_visual}"


def n_visual_of(identifier: str) -> int:
    """Return the number of visual tokens of an image before any was dropped."""
    return int(identifier.rpartition("-")[2])


def image_sizes(request: Any) -> list[int]:
    """Return the number of visual tokens of each image of one of vLLM's requests."""
    return [n_visual_of(each.identifier) for each in request.mm_features]
