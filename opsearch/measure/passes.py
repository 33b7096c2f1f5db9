"""Chunks run through a model: the original on their samples, then all policies in one sweep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opsearch.measure.chunks import Chunk
from opsearch.measure.divergence import Divergence, divergence
from opsearch.measure.entry import Entry
from opsearch.measure.reference import (
    Reference,
    check_finite,
    joined,
    make_reference,
    padded,
)
from opsearch.measure.rows import Measurement
from opsearch.measure.samples import Sample
from opsearch.measure.sweep import sweep
from opsearch.rankers.prompt import Prompt
from opsearch.runtime.adapters import check_supported
from opsearch.upload import upload

_KEPT_BYTES = 2 * 10**9  # of originals, so that asking policy by policy does not run them again
_LOGITS = 2**24  # held at once: a vocabulary is wider than any state


@dataclass(frozen=True, eq=False)
class Ranked:
    """A chunk with the original on its samples and the places of visual tokens, int64[B, S]."""

    chunk: Chunk
    reference: Reference
    rank: Tensor


class Passes:
    """Runs chunks through a model; knows no store, so that workers can do it elsewhere."""

    def __init__(self, model: Any, positions: int) -> None:
        self.model, self.positions = model, positions
        self.family = check_supported(model)
        self._references: dict[tuple[str, ...], Reference] = {}

    def rank(self, chunk: Chunk, needs: frozenset[str]) -> Ranked:
        """The chunk ready to run; needs: what rankers read of the vision tower."""
        groups = chunk.crowd.equally_long
        parts = [self._reference([chunk.samples[i] for i in group], needs) for group in groups]
        ranks = [_places(chunk, part.prompt) for part in parts]
        (reference, *others), (rank, *_) = parts, ranks
        if others:
            order = np.argsort([place for group in groups for place in group]).tolist()
            reference, rank = padded(parts, order), joined(ranks, order, value=-1)
        # Rankers that read the question may rank one image in several ways.
        return Ranked(chunk.apart(rank), reference, rank)

    @torch.no_grad()
    def run(self, ranked: Ranked, done: Callable[[int], None]) -> list[Measurement]:
        """The chunk's measurements; `done` is told the number of each layer that is computed.

        Raises ModelError and OutOfMemoryError.
        """
        chunk, reference = ranked.chunk, ranked.reference
        decoder = self.model.get_submodule(self.family.decoder)
        cos_sin = decoder.rotary_emb(reference.embeds, reference.position_ids)
        entry = Entry.of(reference.prompt, cos_sin, ranked.rank, chunk.crowd)
        states = sweep(decoder.layers, chunk.trie, entry, done)
        # A leaf is named after one of its policies; they all say the same.
        owner = dict(zip(chunk.trie.leaf.tolist(), chunk.policies, strict=True))
        names = [f"policy {owner[leaf].policy.name}" for leaf in range(len(owner))]
        step = max(1, _LOGITS // max(1, reference.logits.numel()))
        parts = []
        for start in range(0, len(names), step):
            part = slice(start, start + step)
            logits = self.model.get_output_embeddings()(decoder.norm(states[:, part]))
            check_finite(logits, chunk.samples, names[part])
            both = (reference.logits, reference.counted)
            original, counted = (tensor[:, None].to(logits.device) for tensor in both)
            parts.append(divergence(original, logits, counted))
        return _measurements(chunk, parts)

    def _reference(self, samples: Sequence[Sample], needs: frozenset[str]) -> Reference:
        """The original on these samples, kept for the next chunk where memory allows."""
        key = (*sorted(needs), *(sample.digest for sample in samples))
        if key in self._references:
            return self._references[key]
        made = make_reference(self.model, self.family, samples, needs, self.positions)
        if sum(ref.nbytes for ref in self._references.values()) + made.nbytes <= _KEPT_BYTES:
            self._references[key] = made
        return made


@torch.no_grad()
def _places(chunk: Chunk, prompt: Prompt) -> Tensor:
    """Places of visual tokens, int64[B, S], as the chunk's policies want them; -1 elsewhere."""
    if chunk.ranker is None:
        return torch.where(prompt.visual, 0, -1)
    return chunk.ranker.rank(prompt, [int(chunk.schedules.kept.max())] * len(prompt.visual))


def _measurements(chunk: Chunk, parts: Sequence[Divergence]) -> list[Measurement]:
    """One for each policy and sample, from divergences [B, leaves] in parts of the leaves."""
    names = ("kl", "reverse_kl", "js", "top1")
    columns = [torch.cat([getattr(part, name) for part in parts], 1) for name in names]
    numbers = torch.stack(columns, -1)[:, upload(chunk.trie.leaf, columns[0].device)].tolist()
    return [
        Measurement(keyed.key, sample.digest, *values)
        for sample, row in zip(chunk.samples, numbers, strict=True)
        for keyed, values in zip(chunk.policies, row, strict=True)
    ]
