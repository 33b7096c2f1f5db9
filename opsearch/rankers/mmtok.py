"""MMTok: tokens that cover the question and the image, greedily.

A selected token covers a target by their similarity, a softmax over all visual tokens of
cosine / temperature. Targets are the words of the question and the visual tokens themselves; a
selection is worth the mean over words of each word's best cover, plus half the mean over visual
tokens of theirs. Each step adds the token that gains most. The worth is monotone and submodular, so
that n greedy tokens reach at least 1 - 1/e of the best n; their order does not depend on n.

Words and visual tokens are compared as they enter the decoder, visual tokens among themselves by
the inputs of the projector. The published temperatures are 0.02 for words and 0.2 for visual
tokens. All visual tokens of a prompt compete. Source: MMTok (arXiv 2508.18264).

Differences from the paper: the question is all text after the last image, including the end of the
chat template, and no second model answers first to add words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opsearch.errors import echo
from opsearch.rankers.base import Prompt
from opsearch.rankers.tiles import Tiles, cosines, ranks_of_picks, rounded
from opsearch.rankers.upload import upload

if TYPE_CHECKING:
    from torch import Tensor

_OF_WORDS, _OF_TOKENS = 0.02, 0.2  # temperatures
_SHARE = 0.5  # weight of covering the visual tokens


@dataclass(frozen=True)
class MMTok:
    """Greedy selection of tokens that cover the question and the image.

    Attributes:
        text: Weight of covering the question; 0 selects by the image alone.
        nested: See `Ranker`.
    """

    text: float = 1.0
    nested = True

    def __post_init__(self) -> None:
        number = isinstance(self.text, (int, float)) and not isinstance(self.text, bool)
        if not number or not 0 <= self.text < float("inf"):
            raise TypeError(f"text={echo(self.text)} is not a weight from 0 on")

    @property
    def needs(self) -> frozenset[str]:
        """Inputs of the ranker."""
        read = {"embeddings", "text_embeddings"} if self.text else set[str]()
        return frozenset({"vision_features", *read})

    def rank(self, prompt: Prompt, n: Sequence[int]) -> Tensor:
        """Return the rank of each visual token, int64[B, S], see `Ranker.rank`."""
        import torch

        tiles = Tiles.of(prompt)
        if not tiles.sizes:
            return torch.full_like(prompt.visual, -1, dtype=torch.int64)
        mask = tiles.mask
        similarity = cosines(tiles.gather(prompt.captured["vision_features"]))
        covers = [_SHARE * covered(similarity, _OF_TOKENS, mask, mask)]
        if self.text:
            words, similarity = _words(prompt, tiles)
            covers.append(self.text * covered(similarity, _OF_WORDS, words, mask))
        picks = coverage_picks(torch.cat(covers, 1), mask, max(tiles.quotas(n)))
        return tiles.ranking(ranks_of_picks(picks, mask), prompt)


def _words(prompt: Prompt, tiles: Tiles) -> tuple[Tensor, Tensor]:
    """Return a mask of the question's words [G, S], and the similarity of all text [G, S, M]."""
    from torch.nn.functional import normalize

    assert prompt.embeds is not None
    samples = upload(tiles.samples, prompt.visual.device)
    text = normalize(prompt.embeds[samples].float(), dim=-1)
    tokens = normalize(tiles.gather(prompt.visual_embeds()).float(), dim=-1)
    return prompt.question()[samples], rounded(text @ tokens.transpose(1, 2))


def covered(similarity: Tensor, temperature: float, targets: Tensor, mask: Tensor) -> Tensor:
    """Return how well each token covers each target, divided by the number of targets.

    Args:
        similarity: Similarity of targets and tokens, float[G, T, M].
        temperature: Divisor of the similarities in the softmax over tokens.
        targets: Mask of the targets, bool[G, T].
        mask: Mask of the tokens, bool[G, M].

    Returns:
        float32[G, T, M], 0 for padding.
    """
    import torch

    weights = (similarity / temperature).masked_fill(~mask[:, None], -torch.inf).softmax(-1)
    number = targets.sum(1).clamp(min=1)[:, None, None]
    return (weights / number).masked_fill(~targets[..., None], 0)


def coverage_picks(cover: Tensor, mask: Tensor, steps: int) -> Tensor:
    """Select tokens one by one, each raising the sum of the targets' best covers most.

    Ties are broken by sequence order.

    Args:
        cover: Cover of each target by each token, not negative, float[G, T, M].
        mask: Mask of the tokens, bool[G, M].
        steps: Number of tokens to select.

    Returns:
        Columns of the selected tokens, int64[G, steps]; after all tokens of a row are selected,
        its values are meaningless.
    """
    import torch

    rows = torch.arange(len(mask), device=mask.device)
    best, free, picks = cover.new_zeros(*cover.shape[:2], 1), mask, []
    for _ in range(steps):
        gain = (cover - best).clamp(min=0).sum(1)
        pick = gain.masked_fill(~free, -torch.inf).argmax(1)
        free = free.scatter(1, pick[:, None], False)
        best = torch.maximum(best, cover[rows, :, pick][..., None])
        picks.append(pick)
    return torch.stack(picks, 1) if picks else mask.new_zeros(len(mask), 0, dtype=torch.int64)
