"""OTPrune: tokens whose distribution is close to that of all tokens by optimal transport.

For Gaussians of mean 0, the paper replaces the 2-Wasserstein distance by a surrogate, log det K of
the selected tokens, where K = I + 0.01 S S^T and S holds the cosine similarities of all tokens. A
greedy search adds the token that raises it most. It is monotone and submodular, so that n greedy
tokens reach at least 1 - 1/e of the best n; their order does not depend on n. Unlike in DivPrune,
an outlier is worth little, because it is like few other tokens. Similarity is that of the
embeddings that enter the decoder. All visual tokens of a prompt compete. Source: OTPrune (CVPR
2026, arXiv 2602.20205), with K as in the description of its code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opsearch.rankers.base import Prompt
from opsearch.rankers.cdpruner import determinant_picks
from opsearch.rankers.tiles import Tiles, cosines, ranks_of_picks, rounded

if TYPE_CHECKING:
    from torch import Tensor

_GAMMA = 0.01


@dataclass(frozen=True)
class OTPrune:
    """Greedy selection of tokens whose distribution is close to that of all tokens."""

    nested = True
    needs = frozenset({"embeddings"})

    def rank(self, prompt: Prompt, n: Sequence[int]) -> Tensor:
        """Return the rank of each visual token, int64[B, S], see `Ranker.rank`."""
        import torch

        tiles = Tiles.of(prompt)
        if not tiles.sizes:
            return torch.full_like(prompt.visual, -1, dtype=torch.int64)
        similarity = cosines(tiles.gather(prompt.visual_embeds()))
        shared = rounded(_GAMMA * similarity @ similarity.transpose(1, 2))
        scale = (1 + shared.diagonal(dim1=1, dim2=2)).sqrt()
        # The diagonal of the scaled kernel is not read.
        kernel = shared / (scale[:, :, None] * scale[:, None])
        mask = tiles.mask
        picks = determinant_picks(kernel, scale, mask, max(tiles.quotas(n)))
        return tiles.ranking(ranks_of_picks(picks, mask), prompt)
