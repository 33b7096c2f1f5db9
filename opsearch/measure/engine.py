"""Measures policies on samples: KL of the pruned model's answer from the original's.

What the store holds is not measured again; all else is measured in passes that compute what
policies have in common once (see trie.py), here or by workers. One chunk is written at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opsearch.amounts import format_amount
from opsearch.costs.shape import Shape
from opsearch.measure.applied import applied_logits
from opsearch.measure.chunks import Chunk, MeasurementPlan, make_chunks
from opsearch.measure.crowds import crowds
from opsearch.measure.divergence import Divergence, divergence
from opsearch.measure.entry import Entry
from opsearch.measure.families import Room
from opsearch.measure.keys import Keys, Todo
from opsearch.measure.memory import ON_CPU
from opsearch.measure.noise import ONE_BY_ONE, TOGETHER, noise_floor, noise_todo
from opsearch.measure.reference import Reference, check_finite, make_reference
from opsearch.measure.rows import Measurement
from opsearch.measure.samples import Sample
from opsearch.measure.store import Store
from opsearch.measure.sweep import sweep
from opsearch.measure.tally import Progress, Tally
from opsearch.policy import Policy
from opsearch.rankers import make_ranker
from opsearch.rankers.prompt import Prompt
from opsearch.runtime.adapters import check_supported
from opsearch.turns import before_decoder

if TYPE_CHECKING:  # workers are made of what is below
    from opsearch.measure.pool import Pool

ENGINE_VERSION = 2
_KEPT_BYTES = 2 * 10**9  # of originals, so that asking policy by policy does not run them again
_LOGITS = 2**24  # held at once: a vocabulary is wider than any state
Say = Callable[[str], None]


class Engine:
    """Measures with one model and writes to one store.

    positions: answer tokens compared; memory: bytes that the states of one chunk may take; say:
    takes the sentence that tells of a chunk for which that was too much; pool: workers that measure
    in place of this process.
    """

    def __init__(
        self,
        model: Any,
        store: Store,
        positions: int = 1,
        memory: int = ON_CPU,
        say: Say | None = None,
        pool: Pool | None = None,
    ) -> None:
        self.model, self.store, self.positions, self.say = model, store, positions, say
        self.pool = pool
        self.adapter = check_supported(model)
        self.passes = Passes(model, positions)
        self.room = Room(Shape.from_config(model.config), model.dtype.itemsize, memory)
        self.measured = 0
        self._told: set[Policy] = set()  # of which policies it was said

    def measure(
        self,
        policies: Sequence[Policy],
        samples: Sequence[Sample],
        progress: Progress | None = None,
    ) -> NDArray[np.float64]:
        """KL in nats of every policy on every sample, float64[P, S].

        The original itself has divergence 0 by definition. `progress` is called with the planned
        FLOPs done and to do. Raises ModelError naming policy and item when a logit
        is not finite, and OutOfMemoryError when not even one policy fits on one sample.
        """
        keys = Keys(policies, samples)
        plan = self._plan(keys)
        if self.pool:
            plan = self.pool.share(plan)
        alone = {chunk.policies[0].policy for chunk in plan.chunks if chunk.applied}
        if self.say and alone - self._told:
            self.say(
                "policies that rank inside the decoder share nothing with others and are measured "
                f"one by one: {len(alone - self._told)}"
            )
            self._told |= alone
        specs = {spec for policy in policies if (spec := before_decoder(policy))}
        needs = frozenset(need for spec in specs for need in make_ranker(spec).needs)
        self._follow(plan, needs, progress)
        return keys.values(self.store.get(keys.all))

    def noise_floor(self, samples: Sequence[Sample], progress: Progress | None = None) -> float:
        """Nats below which a mean KL over these samples is a tie, measured in half precision."""
        if self.room.itemsize < 4:
            layers = self.room.shape.layers
            for key, memory in ((TOGETHER, self.room.memory), (ONE_BY_ONE, 1)):
                room = replace(self.room, memory=memory)
                todo = noise_todo(key, samples, layers, self.store)
                self._follow(self._chunks(todo, room), frozenset(), progress)
        return noise_floor(self.store, [sample.digest for sample in samples])

    def plan(self, policies: Sequence[Policy], samples: Sequence[Sample]) -> MeasurementPlan:
        """What `measure` would run for what the store does not hold."""
        return self._plan(Keys(policies, samples))

    def _plan(self, keys: Keys) -> MeasurementPlan:
        return self._chunks(keys.missing(self.store.get(keys.all)), self.room)

    def _chunks(self, work: Iterable[Todo], room: Room) -> MeasurementPlan:
        chunks: list[Chunk] = []
        for todo in work:
            gathered = crowds(todo.samples, self.adapter, self.model.config, self.positions)
            chunks += make_chunks(todo.policies, todo.samples[0].n_visual, gathered, room)
        return MeasurementPlan(tuple(chunks), room.shape)

    def _follow(
        self, plan: MeasurementPlan, needs: frozenset[str], progress: Progress | None
    ) -> None:
        """Measure and store chunk by chunk."""
        tally = Tally(plan, progress)
        for chunk, measured in self._measured(plan, needs, tally):
            self.store.add(measured)
            self.measured += len(measured)
            tally.finish(chunk)

    def _measured(
        self, plan: MeasurementPlan, needs: frozenset[str], tally: Tally
    ) -> Iterator[tuple[Chunk, list[Measurement]]]:
        """Chunks as they are done; where memory runs out for one, its halves."""

        def halve(chunk: Chunk) -> list[Chunk]:
            halves = chunk.halves()
            if len(halves) > 1:
                tally.replace(chunk, halves)
                if self.say:
                    self.say(self._too_much(chunk))
            return halves

        if self.pool:
            yield from self.pool.measure(plan.chunks, needs, tally, halve)
            return
        todo = list(reversed(plan.chunks))
        while todo:
            chunk = todo.pop()
            try:
                ranked = self.passes.rank(chunk, needs)
                tally.replace(chunk, [ranked.chunk])
                chunk = ranked.chunk
                measured = self.passes.run(ranked, tally.of_layers(chunk))
            except torch.OutOfMemoryError:
                halves = halve(chunk)
                if len(halves) == 1:
                    raise
                todo += reversed(halves)
            else:
                yield chunk, measured

    def _too_much(self, chunk: Chunk) -> str:
        memory = format_amount(self.room.memory, "B")
        return (
            f"memory ran out with {len(chunk.policies)} policies on {len(chunk.samples)} samples "
            f"at once: going on in halves; with less than --memory {memory} chunks start smaller"
        )


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
        self.adapter = check_supported(model)
        self._references: dict[tuple[str, ...], Reference] = {}

    def rank(self, chunk: Chunk, needs: frozenset[str]) -> Ranked:
        """The chunk ready to run; needs: what rankers read of the vision tower."""
        reference = self._reference(chunk.samples, needs)
        rank = _places(chunk, reference.prompt)
        # Rankers that read the question may rank one image in several ways.
        return Ranked(chunk.apart(rank), reference, rank)

    @torch.no_grad()
    def run(self, ranked: Ranked, done: Callable[[int], None]) -> list[Measurement]:
        """The chunk's measurements; `done` is told the number of each layer that is computed.

        Raises ModelError and OutOfMemoryError.
        """
        chunk, reference = ranked.chunk, ranked.reference
        if chunk.applied:
            return self._apply(ranked)
        decoder = self.model.get_submodule(self.adapter.decoder)
        cos_sin = decoder.rotary_emb(reference.embeds, reference.position_ids)
        visual = reference.prompt.visual
        entry = Entry.of(reference.embeds, cos_sin, visual, ranked.rank, chunk.crowd)
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
            original, counted = reference.logits[:, None], reference.counted[:, None]
            parts.append(divergence(original, logits, counted))
        return _measurements(chunk, parts)

    def _apply(self, ranked: Ranked) -> list[Measurement]:
        chunk, reference = ranked.chunk, ranked.reference
        (keyed,) = chunk.policies
        logits = applied_logits(self.model, keyed.policy, chunk.samples, reference.answers)
        check_finite(logits[:, None], chunk.samples, [f"policy {keyed.policy.name}"])
        original, counted = reference.logits[:, None], reference.counted[:, None]
        return _measurements(chunk, [divergence(original, logits[:, None], counted)])

    def _reference(self, samples: Sequence[Sample], needs: frozenset[str]) -> Reference:
        """The original on these samples, kept for the next chunk where memory allows."""
        key = (*sorted(needs), *(sample.digest for sample in samples))
        if key in self._references:
            return self._references[key]
        made = make_reference(self.model, self.adapter, samples, needs, self.positions)
        if sum(ref.nbytes for ref in self._references.values()) + made.nbytes <= _KEPT_BYTES:
            self._references[key] = made
        return made


@torch.no_grad()
def _places(chunk: Chunk, prompt: Prompt) -> Tensor:
    """Places of visual tokens, int64[B, S], as the chunk's policies want them; -1 elsewhere."""
    if chunk.ranker is None:
        return torch.where(prompt.visual, 0, -1)
    kept = chunk.counts[chunk.counts < chunk.layout.n_visual].max(initial=0)
    return chunk.ranker.rank(prompt, [int(kept)] * len(chunk.samples))


def _measurements(chunk: Chunk, parts: Sequence[Divergence]) -> list[Measurement]:
    """One for each policy and sample, from divergences [B, leaves] in parts of the leaves."""
    names = ("kl", "reverse_kl", "js", "top1")
    columns = [torch.cat([getattr(part, name) for part in parts], 1) for name in names]
    numbers = torch.stack(columns, -1)[:, torch.from_numpy(chunk.trie.leaf)].tolist()
    return [
        Measurement(keyed.key, sample.digest, *values)
        for sample, row in zip(chunk.samples, numbers, strict=True)
        for keyed, values in zip(chunk.policies, row, strict=True)
    ]
