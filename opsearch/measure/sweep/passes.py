"""Passes of chunks through a model: the original on their samples, then all policies in one sweep.

The embeddings, the ranking and the original's logits come from one forward of the original per
batch. Policies start from these embeddings, so the vision tower never runs again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opsearch.measure.planning.chunks import Chunk
from opsearch.measure.planning.trie import Trie
from opsearch.measure.storage.records import COLUMNS, Measurement
from opsearch.measure.sweep.divergence import Divergence, divergence
from opsearch.measure.sweep.inputs import DecoderInputs, States
from opsearch.measure.sweep.layer import DecoderRanking, SweepLayer
from opsearch.measure.sweep.original import Reference, check_finite, concat_padded
from opsearch.measure.sweep.originals import Originals
from opsearch.models.decoder import Decoder
from opsearch.models.layers import DecoderLayer
from opsearch.models.supported import check_supported
from opsearch.rankers.base import Prompt
from opsearch.rankers.upload import upload

_LOGITS = 2**24  # elements held at once: a vocabulary is wider than any state


def sweep(
    layers: Sequence[DecoderLayer],
    trie: Trie,
    inputs: DecoderInputs,
    on_layer: Callable[[int], None],
) -> Tensor:
    """Return the answer rows of all leaves before the final norm, [B, leaves, answers, D].

    Args:
        layers: The decoder's layers.
        trie: The trie of the policies.
        inputs: The decoder's inputs.
        on_layer: Called with the index of each finished layer.
    """
    kept = inputs.order[:, : int(trie.levels[0].incoming[0])]
    head, visual = (inputs.images.rows(positions) for positions in (inputs.head, kept))
    states = States(head, inputs.samples.rows(inputs.tail), visual, inputs.order[:, None])
    for number, (layer, level) in enumerate(zip(layers, trie.levels, strict=True)):
        inputs, states = inputs.to(layer.device), states.to(layer.device)
        ranking = DecoderRanking(layer, trie.rankers, inputs)
        if level.reranking:
            states = ranking.reranked(states, level.reranking)
        pending = ranking.orders(states, level.views, level.rows, level.order)
        last = level is trie.levels[-1]
        sweep_layer = SweepLayer(layer, number, level, inputs, states.orders, last)
        states = replace(sweep_layer.advance(states), pending=pending)
        on_layer(number)
    answers: Tensor = states.text.unflatten(1, (-1, inputs.layout.answers))
    return answers


@dataclass(frozen=True, eq=False)
class Ranked:
    """A chunk that is ready to run.

    Attributes:
        chunk: The chunk.
        reference: The original on its samples.
        rank: int64[B, S], rank of each visual token, -1 at other positions.
    """

    chunk: Chunk
    reference: Reference
    rank: Tensor


class Passes:
    """Runner of chunks on one model, without access to the store, so that workers can use it."""

    def __init__(self, model: Any, positions: int) -> None:
        self.model, self.positions = model, positions
        self.family = check_supported(model)
        self.originals = Originals(model, positions)

    def rank(self, chunk: Chunk, needs: frozenset[str]) -> Ranked:
        """Return the chunk ready to run.

        Args:
            chunk: The chunk.
            needs: Outputs of the vision tower that rankers read.
        """
        # Rankers see no padding.
        groups = chunk.batch.by_tail_length
        ranks = []
        for group in groups:
            reference = self.originals.of([chunk.samples[index] for index in group], needs)
            ranks.append(_ranks(chunk, reference.prompt))
        rank = ranks[0]
        if len(groups) > 1:
            reference = self.originals.of(chunk.samples)
            order = np.argsort([index for group in groups for index in group])
            rank = concat_padded(ranks, value=-1)[upload(order, rank.device)]
        # Rankers that read the question may rank one image differently for each question.
        return Ranked(chunk.with_images_split(rank), reference, rank)

    @torch.no_grad()
    def run(self, ranked: Ranked, on_layer: Callable[[int], None]) -> list[Measurement]:
        """Return the measurements of the chunk.

        Args:
            ranked: The chunk.
            on_layer: Called with the index of each finished layer.

        Raises:
            ModelError: A logit is not finite.
            OutOfMemoryError: The states do not fit.
        """
        chunk, reference = ranked.chunk, ranked.reference
        decoder = Decoder.of(self.model, self.family)
        cos_sin = decoder.rotary(reference.embeds, reference.position_ids)
        inputs = DecoderInputs.of(reference, cos_sin, ranked.rank, chunk.batch)
        states = sweep(decoder.layers, chunk.trie, inputs, on_layer)
        # Policies of one leaf have equal logits, so any of them names it in an error.
        policy_of_leaf = dict(zip(chunk.trie.leaf.tolist(), chunk.policies, strict=True))
        names = [
            f"policy {policy_of_leaf[leaf].policy.name}" for leaf in range(len(policy_of_leaf))
        ]
        leaves_at_once = max(1, _LOGITS // max(1, reference.logits.numel()))
        parts = []
        for start in range(0, len(names), leaves_at_once):
            part = slice(start, start + leaves_at_once)
            logits = decoder.logits(states[:, part])
            check_finite(logits, chunk.samples, names[part])
            pair = (reference.logits, reference.counted)
            original, counted = (tensor[:, None].to(logits.device) for tensor in pair)
            parts.append(divergence(original, logits, counted))
        return _measurements(chunk, parts)


@torch.no_grad()
def _ranks(chunk: Chunk, prompt: Prompt) -> Tensor:
    """Return the rank of each visual token for the chunk's policies, int64[B, S]; -1 elsewhere."""
    if chunk.ranker is None:
        return torch.where(prompt.visual, 0, -1)
    return chunk.ranker.rank(prompt, [int(chunk.schedules.kept.max())] * len(prompt.visual))


def _measurements(chunk: Chunk, parts: Sequence[Divergence]) -> list[Measurement]:
    """Return one measurement per policy and sample, from divergences [B, leaves] in parts."""
    columns = [torch.cat([getattr(part, name) for part in parts], 1) for name in COLUMNS]
    numbers = torch.stack(columns, -1)[:, upload(chunk.trie.leaf, columns[0].device)].tolist()
    return [
        Measurement(keyed.key, sample.digest, *values)
        for sample, row in zip(chunk.samples, numbers, strict=True)
        for keyed, values in zip(chunk.policies, row, strict=True)
    ]
