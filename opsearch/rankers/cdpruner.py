"""CDPruner: tokens that are unlike each other and matter to the question, by a determinant.

The kernel of a tile is K = diag(r) S diag(r): S the cosines of what enters the decoder, r the
relevance, the mean over segments of the question of -cos(CLIP's patch, CLIP's text), scaled to
(0, 1] over the prompt's tokens. Greedy search adds the token that makes the determinant of the
chosen ones' kernel largest; its order does not depend on how many are chosen, so it is nested. Each
tile keeps the same share. Source: CDPruner (NeurIPS 2025).

The texts need CLIP's text tower, which no multimodal checkpoint has: clip=FOLDER of a CLIP model.
On the embedded model, whose tower is no published CLIP, the question's token embeddings stand in:
there r is the mean cosine of a token's and the question's embeddings, a figure of another kind.
Other differences: the question is all text behind the last image, closing words of the chat
template included; patches are those of the tower's last layer, through CLIP's own last norm and
projection; LLaVA-NeXT's newline tokens, which the paper strips off, are as relevant as the patch
before them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from opsearch.rankers.prompt import Prompt, owners
from opsearch.rankers.tiles import Tiles, cosines, places_of_picks
from opsearch.upload import upload

_ROUNDING = 1e-5  # a token of which less than this is left is explained by those before it
_LOWEST = 1e-6  # relevance of the least relevant token, above 0


@dataclass(frozen=True)
class CDPruner:
    """Tokens unlike those before them and relevant to the question; clip=FOLDER of a CLIP model."""

    clip: str | None = None
    nested = True

    def __post_init__(self) -> None:
        if self.clip is not None and not isinstance(self.clip, str):
            raise TypeError(f"clip={self.clip!r} is no folder")

    @property
    def needs(self) -> frozenset[str]:
        if self.clip is None:
            return frozenset({"embeddings", "tiles", "question_embeddings"})
        return frozenset(
            {"embeddings", "tiles", f"clip_patches:{self.clip}", f"clip_question:{self.clip}"}
        )

    def rank(self, prompt: Prompt, n: Sequence[int]) -> Tensor:
        """Place of each visual token, int64[B, S], -1 elsewhere; places < n[b] are promised."""
        tiles = Tiles.of(prompt, prompt.captured["tiles"])
        if not tiles.sizes:
            return torch.full_like(prompt.visual, -1, dtype=torch.int64)
        embeds = prompt.visual_embeds()
        relevance = tiles.gather(scaled(self._relevance(prompt, embeds), prompt))
        likeness = cosines(tiles.gather(embeds))
        picks = determinant_picks(likeness, relevance, tiles.mask, max(tiles.quotas(n)))
        return tiles.ranking(places_of_picks(picks, tiles.mask), prompt)

    def _relevance(self, prompt: Prompt, embeds: Tensor) -> Tensor:
        """Relevance of each visual token before scaling, float[sum of n_visual]."""
        if self.clip is None:
            assert prompt.embeds is not None
            asked = prompt.question()[..., None]
            words = (normalize(prompt.embeds.float(), dim=-1) * asked).sum(1)
            question = words / asked.sum(1).clamp(min=1)
            patches, sign = embeds, 1
        else:
            question = prompt.captured[f"clip_question:{self.clip}"]
            patches, sign = prompt.captured[f"clip_patches:{self.clip}"], -1
        of_token = question[upload(owners(prompt.n_visual), question.device)]
        return sign * (normalize(patches.float(), dim=-1) * of_token).sum(-1)


def scaled(relevance: Tensor, prompt: Prompt) -> Tensor:
    """Relevances of all visual tokens from 0 (excluded) to 1 within each sample."""
    spread = prompt.scatter(relevance)
    highest = spread.amax(1)
    lowest = spread.masked_fill(~prompt.visual, torch.inf).amin(1)
    sample = upload(owners(prompt.n_visual), relevance.device)
    low, high = lowest[sample], highest[sample]
    return (relevance - low + _LOWEST) / (high - low + _LOWEST)


def determinant_picks(likeness: Tensor, relevance: Tensor, mask: Tensor, steps: int) -> Tensor:
    """Tokens in the order in which they raise det(diag(r) S diag(r)) most, int64[G, steps].

    likeness: S, float[G, M, M], ones on its diagonal; relevance: r, float[G, M], above 0; mask:
    bool[G, M], which are tokens. Ties go by order, so do tokens that add nothing. Picks beyond a
    row's tokens mean nothing.
    """
    rows = torch.arange(len(mask), device=mask.device)
    # Of S, not of the kernel: a factor of the same scale for tokens of any relevance.
    factor = likeness.new_zeros(len(mask), steps, mask.shape[1])
    unexplained, free, picks = torch.ones_like(relevance), mask, []
    for step in range(steps):
        pick = (relevance**2 * unexplained).masked_fill(~free, -torch.inf).argmax(1)
        free = free.scatter(1, pick[:, None], False)
        known = torch.bmm(factor[rows, :step, pick][:, None], factor[:, :step])[:, 0]
        own = unexplained[rows, pick][:, None]
        row = torch.where(own > 0, (likeness[rows, pick] - known) / own.sqrt(), 0)
        factor[:, step] = row
        unexplained = unexplained - row**2
        unexplained = unexplained.masked_fill(unexplained < _ROUNDING, 0)
        picks.append(pick)
    return torch.stack(picks, 1) if picks else mask.new_zeros(len(mask), 0, dtype=torch.int64)
