"""DivPrune: diverse tokens by max-min distance, independent of the question.

The distance of two tokens is 1 - cosine similarity of the embeddings that enter the decoder. The
first token is the one farthest from its nearest neighbour; each next token is the one whose nearest
selected token is farthest away. The first n of n + 1 selected tokens are those selected for n, so
the ranking is nested. All visual tokens of a prompt compete: tiles, images, video frames, and the
newline tokens of LLaVA-NeXT, which are identical, so all but one rank last. Source: DivPrune (CVPR
2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opsearch.rankers.base import Prompt
from opsearch.rankers.tiles import Tiles, cosines, ranks_of_picks

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class DivPrune:
    """Greedy selection of diverse tokens by max-min distance."""

    nested = True
    needs = frozenset({"embeddings"})

    def rank(self, prompt: Prompt, n: Sequence[int]) -> Tensor:
        """Return the rank of each visual token, int64[B, S], see `Ranker.rank`."""
        import torch

        tiles = Tiles.of(prompt)
        if not tiles.sizes:
            return torch.full_like(prompt.visual, -1, dtype=torch.int64)
        distance = 1 - cosines(tiles.gather(prompt.visual_embeds()))
        picks = max_min_picks(distance, tiles.mask, max(tiles.quotas(n)))
        return tiles.ranking(ranks_of_picks(picks, tiles.mask), prompt)


def max_min_picks(distance: Tensor, mask: Tensor, steps: int) -> Tensor:
    """Select tokens one by one, each with the largest distance to its nearest selected token.

    Ties are broken by sequence order.

    Args:
        distance: Pairwise distances, float[G, M, M].
        mask: Mask of the tokens, bool[G, M].
        steps: Number of tokens to select.

    Returns:
        Columns of the selected tokens, int64[G, steps]; after all tokens of a row are selected,
        its values are meaningless.
    """
    import torch

    rows, width = torch.arange(len(mask), device=mask.device), mask.shape[1]
    diagonal = torch.eye(width, dtype=torch.bool, device=mask.device)
    others = distance.masked_fill(diagonal | ~mask[:, None], torch.inf)
    # The first pick uses the distance to the nearest neighbour.
    nearest = others.amin(2)
    free, picks = mask, []
    for step in range(steps):
        pick = nearest.masked_fill(~free, -torch.inf).argmax(1)
        free = free.scatter(1, pick[:, None], False)
        to_pick = others[rows, pick]
        nearest = torch.minimum(nearest, to_pick) if step else to_pick
        picks.append(pick)
    return torch.stack(picks, 1) if picks else mask.new_zeros(len(mask), 0, dtype=torch.int64)
