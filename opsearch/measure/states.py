"""States between two layers of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class States:
    """Hidden states of all nodes.

    Attributes:
        head: [G, head, D].
        text: [B, text nodes * tail, D].
        visual: [G, rows of all visual nodes, D].
        orders: int64[G, O, N], positions of visual tokens, best first, in each of O orders.
        pending: int64[G, pool] each, rows of a visual node in orders that apply from now on.
    """

    head: Tensor
    text: Tensor
    visual: Tensor
    orders: Tensor
    pending: Sequence[Tensor] = ()

    def to(self, device: torch.device) -> States:
        """Move to another device."""
        return States(
            self.head.to(device),
            self.text.to(device),
            self.visual.to(device),
            self.orders.to(device),
            [rows.to(device) for rows in self.pending],
        )
