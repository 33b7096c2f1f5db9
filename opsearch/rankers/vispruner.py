"""VisPruner: the tokens that [CLS] attends to most, and diverse tokens among the rest.

To keep T tokens of a tile, int(important * T) are taken by attention. The remaining tokens are
thinned in rounds: sorted by descending attention, the tokens at even indices are compared with
those at odd indices, and up to eight with the highest similarity to one of these are removed. The
result depends on T: not nested. Similarity is the cosine of the inputs of the projector. Newline
tokens of LLaVA-NeXT, which the paper removes, count as the patch before them. Source: VisPruner
(ICCV 2025).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opsearch.errors import echo
from opsearch.rankers.base import Prompt
from opsearch.rankers.tiles import Tiles, cosines, inverse, ranks_by_score
from opsearch.rankers.upload import upload

if TYPE_CHECKING:
    from torch import Tensor

_PER_ROUND = 8  # tokens removed in a round at most


@dataclass(frozen=True)
class VisPruner:
    """Selection by [CLS] attention and by diversity in each tile.

    Attributes:
        important: Share of the tokens that is selected by attention, 0 to 1.
        nested: See `Ranker`.
        needs: See `Ranker`.
    """

    important: float = 0.5
    nested = False
    needs = frozenset({"cls_attention", "vision_features", "tiles"})

    def __post_init__(self) -> None:
        if not isinstance(self.important, (int, float)) or not 0 <= self.important <= 1:
            raise TypeError(f"important={echo(self.important)} is not a share from 0 to 1")

    def rank(self, prompt: Prompt, n: Sequence[int]) -> Tensor:
        """Return the rank of each visual token, int64[B, S], see `Ranker.rank`."""
        import torch

        tiles = Tiles.of(prompt, prompt.captured["tiles"])
        if not tiles.sizes:
            return torch.full_like(prompt.visual, -1, dtype=torch.int64)
        by_score = ranks_by_score(tiles.gather(prompt.captured["cls_attention"]), tiles.mask)
        similarity = cosines(tiles.gather(prompt.captured["vision_features"]))
        kept = tiles.quotas(n)
        first = [int(self.important * quota) for quota in kept]
        ranks = thinned(similarity, by_score, tiles.sizes, first, kept)
        return tiles.ranking(ranks, prompt)


def thinned(
    similarity: Tensor,
    by_score: Tensor,
    sizes: Sequence[int],
    first: Sequence[int],
    kept: Sequence[int],
) -> Tensor:
    """Rank the tokens of each row by the round in which they are removed, the last ones first.

    Args:
        similarity: Similarities, float[G, M, M].
        by_score: Ranks by attention, which also break ties, int64[G, M].
        sizes: Number of tokens of each row.
        first: Number of tokens that are never removed, those with the most attention.
        kept: Number of tokens that remain.

    Returns:
        Ranks int64[G, M].
    """
    import torch

    width = by_score.shape[1]
    left = [size - fixed for size, fixed in zip(sizes, first, strict=True)]
    target = [total - fixed for total, fixed in zip(kept, first, strict=True)]
    remaining = _column(first, by_score) + torch.arange(max(left), device=by_score.device)
    tokens = inverse(by_score).gather(1, remaining.clamp(max=width - 1))
    key, penalty = by_score, width * (width + 1)
    rounds = list(_rounds(left, target))
    numbers = upload(torch.tensor(rounds), by_score.device)
    for (now, dropped), (count, drop) in zip(rounds, numbers, strict=True):
        removed = _most_similar(similarity, tokens, count[:, None], drop[:, None])
        key = key.scatter_add(1, tokens, removed * penalty)
        penalty -= width
        order = torch.argsort(removed.int(), dim=1, stable=True)
        most = max(before - less for before, less in zip(now, dropped, strict=True))
        tokens = tokens.gather(1, order[:, :most])
    padding = by_score >= _column(sizes, by_score)
    return inverse(torch.argsort(key + padding * width * (width + 2), dim=1))


def _rounds(left: list[int], target: list[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Yield, for each round, the tokens that each row has and the number that it removes."""
    while any(now > goal for now, goal in zip(left, target, strict=True)):
        # An odd number of tokens has one more even than odd indices.
        drop = [
            min(_PER_ROUND, now - goal, (now + 1) // 2)
            for now, goal in zip(left, target, strict=True)
        ]
        yield left, drop
        left = [now - dropped for now, dropped in zip(left, drop, strict=True)]


def _most_similar(similarity: Tensor, tokens: Tensor, left: Tensor, drop: Tensor) -> Tensor:
    """Return a mask of the tokens to remove in this round, bool[G, m].

    Args:
        similarity: Similarities, float[G, M, M].
        tokens: Columns of the remaining tokens by descending attention, int64[G, m].
        left: Number of remaining tokens of each row, int64[G, 1].
        drop: Number of tokens to remove from each row, int64[G, 1].
    """
    import torch

    is_token = torch.arange(tokens.shape[1], device=tokens.device) < left
    even, odd = tokens[:, 0::2], tokens[:, 1::2]
    rows = torch.arange(len(tokens), device=tokens.device)[:, None, None]
    pairs = similarity[rows, even[:, :, None], odd[:, None]]
    lowest = torch.finfo(pairs.dtype).min
    pairs = pairs.masked_fill(~is_token[:, None, 1::2], lowest)
    alone = pairs.new_full((*even.shape, 1), lowest)  # an odd last token has no partner
    most = torch.cat([pairs, alone], 2).amax(2).masked_fill(~is_token[:, 0::2], -torch.inf)
    order = torch.argsort(most, dim=1, descending=True, stable=True)
    chosen = inverse(order) < drop
    removed = torch.zeros_like(is_token)
    removed[:, 0::2] = chosen
    return removed


def _column(numbers: Sequence[int], like: Tensor) -> Tensor:
    """Return numbers of the rows as int64[G, 1] on the device of `like`."""
    return upload(numbers, like.device)[:, None]
