"""Tokens that each token attends to, where that is not simply all earlier ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from opsearch.errors import ModelError


@dataclass(frozen=True, eq=False)
class Visibility:
    """Interval of positions that each token of a batch attends to.

    Sliding windows begin behind the first token; tokens of an image, or of a whole prompt, that
    attend to each other in both directions see later ones.

    Attributes:
        first: First position, int64[B, S].
        last: Last position, int64[B, S].
    """

    first: Tensor
    last: Tensor

    @classmethod
    def of_mask(cls, mask: Tensor | None, batch: int) -> Visibility | None:
        """Return the intervals of a stock attention mask of prompts without padding.

        Args:
            mask: Mask [B or 1, 1, S, S], true or 0 where a row sees a column; None for causal
                attention.
            batch: Number of prompts B.

        Returns:
            The intervals; None for causal attention.

        Raises:
            ModelError: Some row sees columns that are no interval.
        """
        if mask is None or mask.ndim != 4:
            return None
        seen = mask[:, 0] if mask.dtype == torch.bool else mask[:, 0] > torch.finfo(mask.dtype).min
        numbers = seen.int()
        first = numbers.argmax(-1)
        last = seen.shape[-1] - 1 - numbers.flip(-1).argmax(-1)
        if bool((last - first + 1 != numbers.sum(-1)).any()):
            raise ModelError(
                "tokens of this decoder attend to parts of the prompt that are no interval, which "
                "cannot be measured; use a model of a family in docs/families.md"
            )
        causal = torch.arange(seen.shape[-1], device=seen.device)
        if bool((first == 0).all() and (last == causal).all()):
            return None
        return cls(first.expand(batch, -1), last.expand(batch, -1))

    @classmethod
    def causal(cls, batch: int, length: int, device: torch.device) -> Visibility:
        """Return the intervals of causal attention."""
        positions = torch.arange(length, device=device).expand(batch, -1)
        return cls(torch.zeros_like(positions), positions)

    def to(self, device: torch.device) -> Visibility:
        """Move to another device."""
        return Visibility(self.first.to(device), self.last.to(device))

    def select(self, samples: Tensor) -> Visibility:
        """Return the intervals of some samples, int64[N]."""
        return Visibility(self.first.index_select(0, samples), self.last.index_select(0, samples))

    def part(self, samples: slice) -> Visibility:
        """Return the intervals of consecutive samples; they share their memory."""
        return Visibility(self.first[samples], self.last[samples])

    def sees(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return where queries see keys, by their positions.

        Args:
            queries: int64[B, ..., Q].
            keys: int64[B, ..., K].

        Returns:
            bool[B, ..., Q, K].
        """
        flat = queries.flatten(1)
        first, last = (t.gather(1, flat).view_as(queries) for t in (self.first, self.last))
        keys = keys[..., None, :]
        return (keys >= first[..., None]) & (keys <= last[..., None])


def sees(visibility: Visibility | None, queries: Tensor, keys: Tensor) -> Tensor:
    """Return where queries see keys, see `Visibility.sees`; None is causal attention."""
    if visibility is None:
        return keys[..., None, :] <= queries[..., None]
    return visibility.sees(queries, keys)


def concatenated(
    parts: Sequence[Visibility | None], batches: Sequence[int], lengths: Sequence[int]
) -> Visibility:
    """Concatenate batches of several lengths, padded to the longest.

    Args:
        parts: The batches, of which at least one is not causal.
        batches: Number of samples of each.
        lengths: Length of each.
    """
    device = next(part.first.device for part in parts if part is not None)
    longest = max(lengths)
    padded = []
    for part, batch, length in zip(parts, batches, lengths, strict=True):
        own = part or Visibility.causal(batch, length, device)
        rest = Visibility.causal(batch, longest, device)
        padded.append(
            Visibility(
                torch.cat([own.first, rest.first[:, length:]], 1),
                torch.cat([own.last, rest.last[:, length:]], 1),
            )
        )
    return Visibility(
        torch.cat([each.first for each in padded]), torch.cat([each.last for each in padded])
    )
