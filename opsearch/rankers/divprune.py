"""DivPrune: tokens as far from each other as can be, whatever the picture or question is about.

The distance of two tokens is 1 - cosine of what enters the decoder. First comes the token farthest
from its nearest neighbour, then always the one whose nearest chosen token is farthest away. The
choice of n tokens is the start of that of n + 1, so the ranking is nested. All visual tokens of a
prompt are chosen from together: tiles, several pictures, video frames, and LLaVA-NeXT's newline
tokens, which are alike, so that all but one come last. Source: DivPrune (CVPR 2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from opsearch.rankers.prompt import Prompt
from opsearch.rankers.tiles import Tiles, cosines, places_of_picks


@dataclass(frozen=True)
class DivPrune:
    """Tokens most unlike those before them, by max-min distance."""

    nested = True
    needs = frozenset({"embeddings"})

    def rank(self, prompt: Prompt, n: Sequence[int]) -> Tensor:
        """Place of each visual token, int64[B, S], -1 elsewhere; places < n[b] are promised."""
        tiles = Tiles.of(prompt)
        if not tiles.sizes:
            return torch.full_like(prompt.visual, -1, dtype=torch.int64)
        distance = 1 - cosines(tiles.gather(prompt.visual_embeds()))
        picks = max_min_picks(distance, tiles.mask, max(tiles.quotas(n)))
        return tiles.ranking(places_of_picks(picks, tiles.mask), prompt)


def max_min_picks(distance: Tensor, mask: Tensor, steps: int) -> Tensor:
    """The first tokens by max-min distance, ties by order, int64[G, steps].

    distance: float[G, M, M]; mask: bool[G, M], which are tokens. Picks beyond a row's tokens mean
    nothing.
    """
    rows, width = torch.arange(len(mask), device=mask.device), mask.shape[1]
    itself = torch.eye(width, dtype=torch.bool, device=mask.device)
    others = distance.masked_fill(itself | ~mask[:, None], torch.inf)
    # Before the first pick a token's distance is that to its nearest neighbour.
    nearest = others.amin(2)
    free, picks = mask, []
    for step in range(steps):
        pick = nearest.masked_fill(~free, -torch.inf).argmax(1)
        free = free.scatter(1, pick[:, None], False)
        reached = others[rows, pick]
        nearest = torch.minimum(nearest, reached) if step else reached
        picks.append(pick)
    return torch.stack(picks, 1) if picks else mask.new_zeros(len(mask), 0, dtype=torch.int64)
