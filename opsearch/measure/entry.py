"""What enters the decoder, apart by what pruning makes of it: head, visual tokens, tail."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from opsearch.measure.crowds import Crowd
from opsearch.measure.nodes import Ints
from opsearch.measure.trie import Layout
from opsearch.rankers.prompt import Prompt
from opsearch.upload import upload

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Inputs:
    """What the decoder is given for a batch.

    embeds: [B, S, D]; cos_sin: rotary embeddings of all positions, [..., B or 1, S, hd] (older
    transformers lead with time, height and width).
    """

    embeds: Tensor
    cos_sin: Pair

    def to(self, device: torch.device) -> Inputs:
        """The same on another device."""
        cos, sin = self.cos_sin
        return Inputs(self.embeds.to(device), (cos.to(device), sin.to(device)))

    def of(self, samples: Tensor) -> Inputs:
        """Those of some samples, int64[N]."""
        cos, sin = (t if t.shape[-3] == 1 else t.index_select(-3, samples) for t in self.cos_sin)
        return Inputs(self.embeds.index_select(0, samples), (cos, sin))

    def rows(self, places: Tensor) -> Tensor:
        """Embeddings [B, R, D] of positions int64[B, R]."""
        return self.embeds.gather(1, places[..., None].expand(-1, -1, self.embeds.shape[-1]))

    def rotary(self, places: Tensor) -> Pair:
        """cos and sin [..., B, R, hd] of positions int64[B, R]."""
        leading = self.cos_sin[0].shape[:-3]
        index = places[..., None].expand(*leading, -1, -1, self.cos_sin[0].shape[-1])
        cos, sin = (t.expand(*leading, len(places), -1, -1) for t in self.cos_sin)
        return cos.gather(-2, index), sin.gather(-2, index)


@dataclass(frozen=True, eq=False)
class Entry:
    """B samples of one layout that show G images.

    prompt: of all samples, as rankers see it. images: inputs of a sample for each image, with head
    int64[G, R], the positions before the first visual one, and order int64[G, N], the visual ones,
    best first. samples: inputs of all, with tail int64[B, R], the other positions behind, and asked
    int64[B, A], which of these are answered; what stands behind them is padding. shown: int64[B],
    the image of each sample.
    """

    prompt: Prompt
    images: Inputs
    head: Tensor
    order: Tensor
    samples: Inputs
    tail: Tensor
    asked: Tensor
    shown: Ints
    layout: Layout

    def to(self, device: torch.device) -> Entry:
        """The same on another device."""
        moved = {
            name: getattr(self, name).to(device)
            for name in ("prompt", "images", "head", "order", "samples", "tail", "asked")
        }
        return replace(self, **moved)

    @classmethod
    def of(cls, prompt: Prompt, cos_sin: Pair, rank: Tensor, crowd: Crowd) -> Entry:
        """prompt: with embeds, padded to the crowd's layout; rank: int64[B, S], the ranking."""
        visual, embeds = prompt.visual, prompt.embeds
        assert embeds is not None
        layout, samples = crowd.layout, Inputs(embeds, cos_sin)
        _, first, shown = np.unique(crowd.images, return_index=True, return_inverse=True)
        showing = upload(first, embeds.device)
        text = (~visual[0]).nonzero().flatten()
        behind = rank.masked_fill(~visual, torch.iinfo(rank.dtype).max)[showing]
        order = torch.argsort(behind, dim=1, stable=True)[:, : layout.n_visual]
        head = text[: layout.head].expand(len(first), -1)
        tail = text[layout.head :].expand(len(embeds), -1)
        ends = np.array(crowd.tails)[:, None]
        asked = upload(ends - layout.answers + np.arange(layout.answers), embeds.device)
        return cls(prompt, samples.of(showing), head, order, samples, tail, asked, shown, layout)
