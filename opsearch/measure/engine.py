"""Measures policies on samples: KL of the pruned model's answer from the original's.

What the store holds is not measured again; all else is measured in passes that compute what
policies have in common once (see trie.py), here or by workers. One chunk is written at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from opsearch.amounts import format_amount
from opsearch.costs.shape import Shape
from opsearch.measure.chunks import Chunk, MeasurementPlan, make_chunks
from opsearch.measure.crowds import crowds
from opsearch.measure.keys import Keys, Todo
from opsearch.measure.memory import ON_CPU
from opsearch.measure.noise import ONE_BY_ONE, TOGETHER, noise_floor, noise_todo
from opsearch.measure.passes import Passes
from opsearch.measure.room import Room
from opsearch.measure.rows import Measurement
from opsearch.measure.samples import Sample
from opsearch.measure.store import Store
from opsearch.measure.tally import Progress, Tally
from opsearch.policy import Policy
from opsearch.rankers import make_ranker
from opsearch.runtime.adapters import check_supported
from opsearch.turns import before_decoder

if TYPE_CHECKING:  # workers are made of what is below
    from opsearch.measure.pool import Pool

ENGINE_VERSION = 2
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
        self.family = check_supported(model)
        self.passes = Passes(model, positions)
        self.room = Room(Shape.from_config(model.config), model.dtype.itemsize, memory)
        self.measured = 0

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
        specs = {spec for policy in keys.policies if (spec := before_decoder(policy))}
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
            gathered = crowds(todo.samples, self.family, self.model.config, self.positions)
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
