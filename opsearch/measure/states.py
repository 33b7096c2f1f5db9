"""What is held between two layers of a pass over a trie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class States:
    """Hidden states: head [G, head, D], text [B, texts * tail, D], visual [G, all visual rows, D].

    orders: int64[G, O, N], positions of the visual tokens, best first, in every order that is
    there. waiting: int64[G, pool] each, rows of a visual node in orders that hold from now on.
    """

    head: Tensor
    text: Tensor
    visual: Tensor
    orders: Tensor
    waiting: Sequence[Tensor] = ()

    def to(self, device: torch.device) -> States:
        """The same on another device."""
        return States(
            self.head.to(device),
            self.text.to(device),
            self.visual.to(device),
            self.orders.to(device),
            [rows.to(device) for rows in self.waiting],
        )
