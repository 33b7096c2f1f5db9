"""Inputs of the decoder, split into head, visual tokens and tail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from opsearch.measure.layout import Ints, Layout
from opsearch.measure.planning.batches import SampleBatch
from opsearch.measure.sweep.original import Reference
from opsearch.measure.sweep.visibility import Visibility
from opsearch.models.attention import CosSin
from opsearch.rankers.base import Prompt
from opsearch.rankers.upload import upload

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Embeddings of a batch, and all that the layers read by position.

    Attributes:
        embeds: [B, S, D].
        cos_sin: Rotary embeddings of all positions by kind of layer, [..., B or 1, S, hd]. Older
            transformers have a leading dimension for time, height and width.
        visibility: Tokens that each token attends to by kind of layer, for those that are not
            causal.
        added: Visual features that are added behind the first layers, [B, S, D] each.
    """

    embeds: Tensor
    cos_sin: Mapping[str, CosSin]
    visibility: Mapping[str, Visibility]
    added: Sequence[Tensor]

    def to(self, device: torch.device) -> Embeddings:
        """Move to another device."""
        return Embeddings(
            self.embeds.to(device),
            {kind: (cos.to(device), sin.to(device)) for kind, (cos, sin) in self.cos_sin.items()},
            {kind: intervals.to(device) for kind, intervals in self.visibility.items()},
            [features.to(device) for features in self.added],
        )

    def select(self, samples: Tensor) -> Embeddings:
        """Return the embeddings of some samples, int64[N]."""

        def rotary(each: Tensor) -> Tensor:
            return each if each.shape[-3] == 1 else each.index_select(-3, samples)

        return Embeddings(
            self.embeds.index_select(0, samples),
            {kind: (rotary(cos), rotary(sin)) for kind, (cos, sin) in self.cos_sin.items()},
            {kind: intervals.select(samples) for kind, intervals in self.visibility.items()},
            [features.index_select(0, samples) for features in self.added],
        )

    def rows(self, positions: Tensor) -> Tensor:
        """Return the embeddings [B, R, D] at positions int64[B, R]."""
        return self.embeds.gather(1, positions[..., None].expand(-1, -1, self.embeds.shape[-1]))

    def with_features(self, layer: int, states: Tensor, positions: Tensor) -> Tensor:
        """Return states [B, R, D] behind a layer with the visual features that are added there.

        Args:
            layer: The layer.
            states: The states.
            positions: Their positions, int64[B, R].
        """
        if layer >= len(self.added):
            return states
        index = positions[..., None].expand(-1, -1, states.shape[-1])
        return states + self.added[layer].gather(1, index)

    def rotary(self, kind: str, positions: Tensor) -> CosSin:
        """Return cos and sin [..., B, R, hd] at positions int64[B, R], for a kind of layer."""
        batch, length = self.cos_sin[kind][0].shape[-3:-1]
        if batch > 1:
            first = torch.arange(batch, device=positions.device) * length
            positions = positions + first[:, None]
        cos, sin = (
            t.flatten(-3, -2).index_select(-2, positions.flatten()).unflatten(-2, positions.shape)
            for t in self.cos_sin[kind]
        )
        return cos, sin


@dataclass(frozen=True, eq=False)
class DecoderInputs:
    """Inputs of B samples of one layout that show G images.

    Attributes:
        prompt: All samples, as rankers see them.
        images: Embeddings of one sample per image.
        head: int64[G, R], positions before the first visual token.
        order: int64[G, N], positions of visual tokens, best first.
        samples: Embeddings of all samples.
        tail: int64[B, R], positions of the other tokens after the first visual one.
        answer_rows: int64[B, A], rows of the tail whose logits are compared, before padding.
        image_of: int64[B], image of each sample.
        layout: Layout of the batch.
    """

    prompt: Prompt
    images: Embeddings
    head: Tensor
    order: Tensor
    samples: Embeddings
    tail: Tensor
    answer_rows: Tensor
    image_of: Ints
    layout: Layout

    def to(self, device: torch.device) -> DecoderInputs:
        """Move to another device."""
        moved = {
            name: getattr(self, name).to(device)
            for name in ("prompt", "images", "head", "order", "samples", "tail", "answer_rows")
        }
        return replace(self, **moved)

    @classmethod
    def of(
        cls,
        reference: Reference,
        cos_sin: Mapping[str, CosSin],
        rank: Tensor,
        batch: SampleBatch,
    ) -> DecoderInputs:
        """Split the embeddings of a batch.

        Args:
            reference: The original on the batch, padded to its layout.
            cos_sin: Rotary embeddings of all positions by kind of layer.
            rank: int64[B, S], rank of each visual token, -1 at other positions.
            batch: The samples.
        """
        prompt, embeds, layout = reference.prompt, reference.embeds, batch.layout
        visual = prompt.visual
        samples = Embeddings(embeds, cos_sin, reference.visibility, reference.added)
        _, first, image_of = np.unique(batch.images, return_index=True, return_inverse=True)
        representative = upload(first, embeds.device)
        text = (~visual[0]).nonzero().flatten()
        visual_rank = rank.masked_fill(~visual, torch.iinfo(rank.dtype).max)[representative]
        order = torch.argsort(visual_rank, dim=1, stable=True)[:, : layout.n_visual]
        head = text[: layout.head].expand(len(first), -1)
        tail = text[layout.head :].expand(len(embeds), -1)
        ends = np.array(batch.tails)[:, None]
        answer_rows = upload(ends - layout.answers + np.arange(layout.answers), embeds.device)
        return cls(
            prompt=prompt,
            images=samples.select(representative),
            head=head,
            order=order,
            samples=samples,
            tail=tail,
            answer_rows=answer_rows,
            image_of=image_of,
            layout=layout,
        )


@dataclass(frozen=True, eq=False)
class States:
    """Hidden states of all nodes.

    Attributes:
        head: [G, head, D].
        text: [B, text nodes * tail, D].
        visual: [G, rows of all visual nodes, D].
        orders: int64[G, O, N], positions of visual tokens, best first, in each of O orders.
        pending: int64[G, N] each, rows of a visual node in orders that apply from the next layer
            on, for N candidates.
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
