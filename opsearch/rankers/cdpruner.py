"""CDPruner: diverse tokens that are relevant to the question, by a determinantal point process.

The kernel of a tile is K = diag(r) S diag(r). S holds the cosine similarities of the token
embeddings that enter the decoder. The relevance r is the mean of -cos(CLIP patch, CLIP text) over
the segments of the question, scaled to (0, 1] within the prompt. A greedy search adds the token
that maximizes the determinant of the selected kernel; its order does not depend on the number of
tokens, so the ranking is nested. Each tile keeps the same share. Source: CDPruner (NeurIPS 2025).

CLIP's text tower is not part of multimodal checkpoints, so a folder of the CLIP model is required
(`clip`). On the embedded model, whose vision tower is not a published CLIP, the token embeddings of
the question replace it: r is then the mean cosine similarity of a token and the question.

Differences from the paper: the question is all text after the last image, including the end of the
chat template; patches come from the tower's last layer, through CLIP's last norm and projection;
newline tokens of LLaVA-NeXT, which the paper removes, have the relevance of the patch before them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opsearch.errors import PATH, echo
from opsearch.rankers.base import CLIP_PATCHES, CLIP_QUESTION, Prompt, owners
from opsearch.rankers.tiles import Tiles, cosines, ranks_of_picks
from opsearch.rankers.upload import upload

if TYPE_CHECKING:
    from torch import Tensor

_ROUNDING = 1e-5  # residual below which a token is a combination of the selected ones
_LOWEST = 1e-6  # keeps the relevance of the least relevant token above 0


@dataclass(frozen=True)
class CDPruner:
    """Greedy selection of diverse tokens that are relevant to the question.

    Attributes:
        clip: Folder or hub id of the CLIP model that the vision tower was taken from; None on the
            embedded model.
        nested: See `Ranker`.
    """

    clip: str | None = None
    nested = True

    def __post_init__(self) -> None:
        if self.clip is not None and not isinstance(self.clip, str):
            raise TypeError(f"clip={echo(self.clip, PATH)} is not the path of a folder or a hub id")

    @property
    def needs(self) -> frozenset[str]:
        """Inputs of the ranker."""
        if self.clip is None:
            return frozenset({"embeddings", "tiles", "question_embeddings"})
        return frozenset(
            {"embeddings", "tiles", CLIP_PATCHES + self.clip, CLIP_QUESTION + self.clip}
        )

    def rank(self, prompt: Prompt, n: Sequence[int]) -> Tensor:
        """Return the rank of each visual token, int64[B, S], see `Ranker.rank`."""
        import torch

        tiles = Tiles.of(prompt, prompt.captured["tiles"])
        if not tiles.sizes:
            return torch.full_like(prompt.visual, -1, dtype=torch.int64)
        embeds = prompt.visual_embeds()
        relevance = tiles.gather(scaled(self._relevance(prompt, embeds), prompt))
        similarity = cosines(tiles.gather(embeds))
        picks = determinant_picks(similarity, relevance, tiles.mask, max(tiles.quotas(n)))
        return tiles.ranking(ranks_of_picks(picks, tiles.mask), prompt)

    def _relevance(self, prompt: Prompt, embeds: Tensor) -> Tensor:
        """Return the unscaled relevance of each visual token, float[sum of n_visual]."""
        from torch.nn.functional import normalize

        if self.clip is None:
            question, patches, sign = prompt.question_direction(), embeds, 1
        else:
            question = prompt.captured[CLIP_QUESTION + self.clip]
            patches, sign = prompt.captured[CLIP_PATCHES + self.clip], -1
        per_token = question[upload(owners(prompt.n_visual), question.device)]
        return sign * (normalize(patches.float(), dim=-1) * per_token).sum(-1)


def scaled(relevance: Tensor, prompt: Prompt) -> Tensor:
    """Scale the relevance of all visual tokens to (0, 1] within each sample."""
    import torch

    scattered = prompt.scatter(relevance)
    highest = scattered.amax(1)
    lowest = scattered.masked_fill(~prompt.visual, torch.inf).amin(1)
    sample = upload(owners(prompt.n_visual), relevance.device)
    low, high = lowest[sample], highest[sample]
    return (relevance - low + _LOWEST) / (high - low + _LOWEST)


def determinant_picks(similarity: Tensor, relevance: Tensor, mask: Tensor, steps: int) -> Tensor:
    """Select tokens one by one, each maximizing det(diag(r) S diag(r)) of the selected ones.

    Ties, and tokens that leave the determinant at 0, are selected in sequence order.

    Args:
        similarity: S with ones on its diagonal, float[G, M, M].
        relevance: r, positive, float[G, M].
        mask: Mask of the tokens, bool[G, M].
        steps: Number of tokens to select.

    Returns:
        Columns of the selected tokens, int64[G, steps]; after all tokens of a row are selected,
        its values are meaningless.
    """
    import torch

    rows = torch.arange(len(mask), device=mask.device)
    # Cholesky factor of S, not of the kernel: its scale does not depend on the relevance.
    factor = similarity.new_zeros(len(mask), steps, mask.shape[1])
    residual, free, picks = torch.ones_like(relevance), mask, []
    for step in range(steps):
        pick = (relevance**2 * residual).masked_fill(~free, -torch.inf).argmax(1)
        free = free.scatter(1, pick[:, None], False)
        projection = torch.bmm(factor[rows, :step, pick][:, None], factor[:, :step])[:, 0]
        pivot = residual[rows, pick][:, None]
        row = torch.where(pivot > 0, (similarity[rows, pick] - projection) / pivot.sqrt(), 0)
        factor[:, step] = row
        residual = residual - row**2
        residual = residual.masked_fill(residual < _ROUNDING, 0)
        picks.append(pick)
    return torch.stack(picks, 1) if picks else mask.new_zeros(len(mask), 0, dtype=torch.int64)
