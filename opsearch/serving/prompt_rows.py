"""Rows of a request's prompt that the engine holds, out of the tokens that its processor made.

Visual tokens that no layer needs never enter the engine. This is possible where all visual tokens
of a prompt stand side by side; other prompts hold all of them, and the layers leave them out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class PromptShape:
    """Where the visual tokens of a prompt are.

    Attributes:
        visual: Mask of the visual rows that the engine holds, bool[P].
        n_visual: Number N of visual tokens that the processor made.
    """

    visual: Tensor
    n_visual: int

    @property
    def dropped(self) -> int:
        """Number of visual tokens that the engine does not hold."""
        return self.n_visual - int(self.visual.sum())

    @property
    def first(self) -> int:
        """Row of the first visual token."""
        return int(self.visual.int().argmax())

    def full(self, values: Tensor) -> Tensor:
        """Return values [P, ...] of the rows as values of the whole prompt, [P + dropped, ...].

        Dropped tokens get the value of the first visual row.
        """
        dropped, first = self.dropped, self.first
        if not dropped:
            return values
        extra = values[first : first + 1].expand(dropped, *values.shape[1:])
        return torch.cat([values[:first], extra, values[first:]])


@dataclass(frozen=True, eq=False)
class PromptRows:
    """Rows of a prompt under a policy.

    Attributes:
        counts: Visual tokens that each operation processes, int64[L, 3].
        rank: Rank of each row among the visual tokens of the prompt, -1 for text, int64[P].
        place: Index of each visual row among all N visual tokens, -1 for text, int64[P].
        positions: Rotary positions, int64[1, P], or int64[3, P] with M-RoPE.
        next_position: Position of the first generated token.
    """

    counts: Tensor
    rank: Tensor
    place: Tensor
    positions: Tensor
    next_position: int
    _kept: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def of(
        cls, shape: PromptShape, counts: Tensor, rank: Tensor | None, positions: Tensor, after: int
    ) -> PromptRows:
        """Return the rows of a prompt.

        Args:
            shape: The prompt.
            counts: Counts of the policy for it, int64[L, 3].
            rank: Rank of each of its N visual tokens, int64[N]; None if each layer processes all
                or none of them, or if a cache holds their keys.
            positions: Rotary positions of the whole prompt, int64[1 or 3, P + dropped].
            after: Position of the first generated token.
        """
        held = shape.n_visual - shape.dropped
        if rank is None or not shape.dropped:
            places = torch.arange(held)
        else:
            places = (rank < held).nonzero()[:, 0]
        ranks = torch.zeros(held, dtype=torch.long) if rank is None else rank[places]
        row = torch.arange(len(shape.visual))
        if shape.dropped:
            row = torch.where(row > shape.first, row + shape.dropped, row)
            row[shape.visual] = shape.first + places
        none = torch.full((len(shape.visual),), -1)
        return cls(
            counts=counts,
            rank=none.masked_scatter(shape.visual, ranks),
            place=none.masked_scatter(shape.visual, places),
            positions=positions[:, row],
            next_position=after,
        )

    def __len__(self) -> int:
        return len(self.rank)

    @cached_property
    def held(self) -> int:
        """Number of ranks that the visual rows have, counted from 0."""
        return int(self.rank.max()) + 1

    def kept(self, limit: int) -> Tensor:
        """Return the running number of rows of rank below `limit`, text included, int64[P]."""
        if limit not in self._kept:
            self._kept[limit] = (self.rank < limit).cumsum(0)
        return self._kept[limit]
