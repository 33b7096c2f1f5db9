"""VisPruner: the tokens that [CLS] attends to most, and of the rest those least like each other.

Of T tokens of a tile int(important * T) are the most attended. The others are thinned to the rest
of T in rounds: in the order of falling attention every second token is compared with all those
between, and at most eight that are most like one of them are deleted. All depends on T: not nested.
Likeness is the cosine of what the projector reads. LLaVA-NeXT's newline tokens, which the paper
strips off, stand for the patch before them. Source: VisPruner (ICCV 2025).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from opsearch.rankers.prompt import Prompt
from opsearch.rankers.tiles import Tiles, cosines, inverse, places_by_score
from opsearch.upload import upload

_AT_ONCE = 8  # tokens deleted in a round


@dataclass(frozen=True)
class VisPruner:
    """Half of the tokens by [CLS] attention, the others by being unlike, in each tile."""

    important: float = 0.5
    nested = False
    needs = frozenset({"cls_attention", "vision_features", "tiles"})

    def __post_init__(self) -> None:
        if not isinstance(self.important, (int, float)) or not 0 <= self.important <= 1:
            raise TypeError(f"important={self.important!r} is no share between 0 and 1")

    def rank(self, prompt: Prompt, n: Sequence[int]) -> Tensor:
        """Place of each visual token, int64[B, S], -1 elsewhere; places < n[b] are promised."""
        tiles = Tiles.of(prompt, prompt.captured["tiles"])
        if not tiles.sizes:
            return torch.full_like(prompt.visual, -1, dtype=torch.int64)
        by_score = places_by_score(tiles.gather(prompt.captured["cls_attention"]), tiles.mask)
        likeness = cosines(tiles.gather(prompt.captured["vision_features"]))
        kept = tiles.quotas(n)
        first = [int(self.important * quota) for quota in kept]
        places = thinned(likeness, by_score, tiles.sizes, first, kept)
        return tiles.ranking(places, prompt)


def thinned(
    likeness: Tensor,
    by_score: Tensor,
    sizes: Sequence[int],
    first: Sequence[int],
    kept: Sequence[int],
) -> Tensor:
    """Places of the tokens when all but `kept` are deleted, the `first` ones never, int64[G, M].

    likeness: float[G, M, M]; by_score: int64[G, M], places by attention, by which ties go too;
    sizes, first, kept: numbers of tokens of each row. What is deleted later stands before what is
    deleted earlier.
    """
    width = by_score.shape[1]
    left = [size - skipped for size, skipped in zip(sizes, first, strict=True)]
    target = [stay - skipped for stay, skipped in zip(kept, first, strict=True)]
    behind = _column(first, by_score) + torch.arange(max(left), device=by_score.device)
    tokens = inverse(by_score).gather(1, behind.clamp(max=width - 1))
    key, penalty = by_score, width * (width + 1)
    rounds = list(_rounds(left, target))
    numbers = upload(torch.tensor(rounds), by_score.device)
    for (now, deleted), (there, drop) in zip(rounds, numbers, strict=True):
        gone = _most_alike(likeness, tokens, there[:, None], drop[:, None])
        key = key.scatter_add(1, tokens, gone * penalty)
        penalty -= width
        order = torch.argsort(gone.int(), dim=1, stable=True)
        most = max(before - less for before, less in zip(now, deleted, strict=True))
        tokens = tokens.gather(1, order[:, :most])
    padding = by_score >= _column(sizes, by_score)
    return inverse(torch.argsort(key + padding * width * (width + 2), dim=1))


def _rounds(left: list[int], target: list[int]) -> Iterator[tuple[list[int], list[int]]]:
    """How many tokens of each row there are in each round, and how many of them it deletes."""
    while any(now > goal for now, goal in zip(left, target, strict=True)):
        # Of an odd number of tokens one more is compared than is compared with.
        drop = [
            min(_AT_ONCE, now - goal, (now + 1) // 2)
            for now, goal in zip(left, target, strict=True)
        ]
        yield left, drop
        left = [now - deleted for now, deleted in zip(left, drop, strict=True)]


def _most_alike(likeness: Tensor, tokens: Tensor, left: Tensor, drop: Tensor) -> Tensor:
    """Which of the tokens left go in this round, bool[G, m].

    tokens: int64[G, m], by falling attention, the first left[g] of a row being tokens; left, drop:
    int64[G, 1].
    """
    is_token = torch.arange(tokens.shape[1], device=tokens.device) < left
    even, odd = tokens[:, 0::2], tokens[:, 1::2]
    rows = torch.arange(len(tokens), device=tokens.device)[:, None, None]
    pairs = likeness[rows, even[:, :, None], odd[:, None]]
    lowest = torch.finfo(pairs.dtype).min
    pairs = pairs.masked_fill(~is_token[:, None, 1::2], lowest)
    alone = pairs.new_full((*even.shape, 1), lowest)  # the last token has none to be like
    most = torch.cat([pairs, alone], 2).amax(2).masked_fill(~is_token[:, 0::2], -torch.inf)
    order = torch.argsort(most, dim=1, descending=True, stable=True)
    chosen = inverse(order) < drop
    gone = torch.zeros_like(is_token)
    gone[:, 0::2] = chosen
    return gone


def _column(numbers: Sequence[int], like: Tensor) -> Tensor:
    """Numbers of the rows, int64[G, 1], where `like` is."""
    return upload(numbers, like.device)[:, None]
