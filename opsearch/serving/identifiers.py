"""Facts of an image that travel from the processor to the workers in vLLM's identifier of it.

vLLM sends an identifier with each image, by which caches find it, and nothing else that a plug-in
may set and that is there even where the image itself is cached.
"""

from __future__ import annotations

_SHARED, _PRIVATE = "s", "p"


def mark(identifier: str, n_visual: int, private: bool) -> str:
    """Return an identifier with what a worker must know of an image.

    Args:
        identifier: vLLM's identifier.
        n_visual: Number of visual tokens of the image before any was dropped.
        private: Whether other requests may not read the keys of this prompt.
    """
    return f"{identifier}-{_PRIVATE if private else _SHARED}{n_visual}"


def n_visual_of(identifier: str) -> int:
    """Return the number of visual tokens of an image before any was dropped."""
    return int(identifier.rpartition("-")[2][1:])


def is_private(identifier: str) -> bool:
    """Return whether other requests may not read the keys of the image's prompt."""
    return identifier.rpartition("-")[2].startswith(_PRIVATE)
