"""Visual features that a decoder adds behind its first layers (DeepStack, arXiv 2406.04334)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

DEEPSTACK = "deepstack_visual_embeds"  # of the decoder, one [visual tokens of the batch, D] a layer


def added_features(kwargs: Mapping[str, Any]) -> list[Tensor]:
    """Return the features that are added behind each of the first layers, [B, S, D].

    They are 0 at text tokens. Decoders without DeepStack add none.

    Args:
        kwargs: Arguments of the decoder.
    """
    given = kwargs.get(DEEPSTACK)
    if given is None:
        return []
    embeds, visual = kwargs["inputs_embeds"], kwargs["visual_pos_masks"]
    visual = visual.to(embeds.device)[..., None]
    return [
        embeds.new_zeros(embeds.shape).masked_scatter(visual, each.to(embeds.device, embeds.dtype))
        for each in given
    ]
