"""Measurement of policies on samples: KL divergence of the pruned answer from the original one.

Measurements that the store already holds are not repeated. The others run in trie passes that
compute shared states once (see `planning/trie.py`), in this process or on workers. Each chunk is
written to the store as soon as it is measured.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from opsearch.costs.shape import Shape
from opsearch.formatting import format_amount
from opsearch.measure.gates.gradients import gate_gradients
from opsearch.measure.planning.batches import group_samples
from opsearch.measure.planning.chunks import Chunk, MeasurementPlan, make_chunks
from opsearch.measure.planning.memory import ON_CPU, MemoryBudget
from opsearch.measure.planning.requests import Missing, Requests, missing_noise
from opsearch.measure.progress import PlanProgress
from opsearch.measure.received_attention import received_attention
from opsearch.measure.storage.noise import ONE_BY_ONE, TOGETHER, noise_floor
from opsearch.measure.storage.records import Measurement
from opsearch.measure.storage.store import Store
from opsearch.measure.sweep.passes import Passes
from opsearch.measure.sweep.reused_memory import reused_memory
from opsearch.models.clip import clip_folders
from opsearch.models.encoding import Sample
from opsearch.models.fingerprint import clip_digest
from opsearch.models.supported import check_supported
from opsearch.policy.policy import Policy
from opsearch.policy.schedule import before_decoder
from opsearch.problem.objective import Masses
from opsearch.rankers import make_ranker

if TYPE_CHECKING:
    from opsearch.measure.workers.ray_workers import MeasureWorkers
    from opsearch.progress import Say, Tick


@dataclass(frozen=True)
class SampleMeasure:
    """Measures on the samples of a search with an engine.

    Attributes:
        engine: The engine.
        samples: The calibration samples.
        progress: Called with the work done and to do.
    """

    engine: Engine
    samples: Sequence[Sample]
    progress: Tick | None = None

    def __call__(self, policies: Sequence[Policy]) -> NDArray[np.float64]:
        """Return the KL of each policy on each sample in nats, float64[P, S]."""
        return self.engine.measure(policies, self.samples, self.progress)

    def on(self, policies: Sequence[Policy], samples: Sequence[int]) -> NDArray[np.float64]:
        """Return the KL of each policy on some samples, by their numbers, float64[P, s]."""
        some = [self.samples[number] for number in samples]
        return self.engine.measure(policies, some, self.progress)

    def received_attention(self) -> list[Masses]:
        """Return for each sample the attention that its visual tokens get, float32[L, 2, N]."""
        engine = self.engine
        return received_attention(engine.model, engine.store, self.samples, self.progress)

    def gate_gradients(self, policies: Sequence[Policy]) -> NDArray[np.float64]:
        """Return the gradient that each policy's closed gates have, float64[P, S].

        They are taken in this process, also if workers measure.
        """
        engine = self.engine
        engine.check_clip(policies)
        return gate_gradients(
            engine.model, engine.store, policies, self.samples, engine.positions, self.progress
        )


class Engine:
    """Measurement of policies with one model, into one store.

    Args:
        model: The multimodal LLM with its weights.
        store: Where measurements are looked up and written.
        positions: Answer tokens that are compared.
        memory: Bytes that the states of one chunk may take.
        say: Called with a sentence when a chunk runs out of memory and is split.
        workers: Workers that measure instead of this process.
    """

    def __init__(
        self,
        model: Any,
        store: Store,
        positions: int = 1,
        memory: int = ON_CPU,
        say: Say | None = None,
        workers: MeasureWorkers | None = None,
    ) -> None:
        self.model, self.store, self.positions, self.say = model, store, positions, say
        self.workers = workers
        self.family = check_supported(model)
        self.passes = Passes(model, positions)
        self.memory_budget = MemoryBudget(
            Shape.from_config(model.config), model.dtype.itemsize, memory
        )
        self.measured = 0
        self._checked = set[str]()

    def measure(
        self,
        policies: Sequence[Policy],
        samples: Sequence[Sample],
        progress: Tick | None = None,
    ) -> NDArray[np.float64]:
        """Return the KL divergence in nats of every policy on every sample, float64[P, S].

        The original has divergence 0 by definition. A policy on a sample with an image setting is
        compared with the original at full size.

        Args:
            policies: P policies.
            samples: S samples.
            progress: Called with the planned FLOPs done and in total.

        Raises:
            ModelError: A logit is not finite; the message names policy and sample.
            RunFolderError: The CLIP model of a ranker changed since stored measurements with it.
            OutOfMemoryError: Not even one policy fits on one sample.
        """
        requests = Requests(policies, samples)
        needs = self.check_clip(requests.policies)
        plan = self._plan_missing(requests)
        if self.workers:
            plan = self.workers.share(plan)
        self._run_plan(plan, needs, progress)
        return requests.values(self.store.get(requests.all_keys))

    def stored(self, policies: Sequence[Policy], samples: Sequence[Sample]) -> NDArray[np.float64]:
        """Return the stored KL in nats of every policy on every sample, nan if none, float64[P, S].

        Nothing is measured.
        """
        requests = Requests(policies, samples)
        return requests.values(self.store.get(requests.all_keys))

    def noise_floor(self, samples: Sequence[Sample], progress: Tick | None = None) -> float:
        """Return the mean KL in nats below which policies tie on these samples in half precision.

        Noise that the store lacks is measured first, that of images with a setting at full size.
        """
        samples = [sample.original or sample for sample in samples]
        if self.memory_budget.itemsize < 4:
            layers = self.memory_budget.shape.layers
            for key, memory in ((TOGETHER, self.memory_budget.memory), (ONE_BY_ONE, 1)):
                memory_budget = replace(self.memory_budget, memory=memory)
                pending = missing_noise(key, samples, layers, self.store)
                self._run_plan(self._chunks(pending, memory_budget), frozenset(), progress)
        return noise_floor(self.store, [sample.digest for sample in samples])

    def plan(self, policies: Sequence[Policy], samples: Sequence[Sample]) -> MeasurementPlan:
        """Return the plan that `measure` would run for measurements missing from the store."""
        return self._plan_missing(Requests(policies, samples))

    def check_clip(self, policies: Sequence[Policy]) -> frozenset[str]:
        """Return what the rankers before the decoder read.

        Raises:
            RunFolderError: A CLIP model among it changed since stored measurements with it.
        """
        specs = {spec for policy in policies if (spec := before_decoder(policy))}
        needs = frozenset(need for spec in specs for need in make_ranker(spec).needs)
        for folder in clip_folders(needs):
            if folder not in self._checked:
                self.store.require_checkpoint(folder, clip_digest(self.model, folder))
                self._checked.add(folder)
        return needs

    def _plan_missing(self, requests: Requests) -> MeasurementPlan:
        return self._chunks(requests.missing(self.store.get(requests.all_keys)), self.memory_budget)

    def _chunks(self, work: Iterable[Missing], memory_budget: MemoryBudget) -> MeasurementPlan:
        chunks: list[Chunk] = []
        for pending in work:
            batches = group_samples(pending.samples, self.family, self.model.config, self.positions)
            chunks += make_chunks(
                pending.policies, pending.samples[0].n_visual, batches, memory_budget
            )
        return MeasurementPlan(tuple(chunks), memory_budget.shape)

    def _run_plan(
        self, plan: MeasurementPlan, needs: frozenset[str], progress: Tick | None
    ) -> None:
        """Measure and store the plan chunk by chunk."""
        plan_progress = PlanProgress(plan, progress)
        with reused_memory():
            for chunk, measured in self._measured(plan, needs, plan_progress):
                self.store.add(measured)
                self.measured += len(measured)
                plan_progress.finish(chunk)

    def _measured(
        self, plan: MeasurementPlan, needs: frozenset[str], plan_progress: PlanProgress
    ) -> Iterator[tuple[Chunk, list[Measurement]]]:
        """Yield measured chunks; one that runs out of memory is replaced by its halves."""

        def split(chunk: Chunk) -> list[Chunk]:
            halves = chunk.halves()
            if len(halves) > 1:
                plan_progress.replace(chunk, halves)
                if self.say:
                    self.say(self._split_notice(chunk))
            return halves

        if self.workers:
            yield from self.workers.measure(plan.chunks, needs, plan_progress, split)
            return
        pending = list(reversed(plan.chunks))
        while pending:
            chunk = pending.pop()
            try:
                ranked = self.passes.rank(chunk, needs)
                plan_progress.replace(chunk, [ranked.chunk])
                chunk = ranked.chunk
                measured = self.passes.run(ranked, plan_progress.layer_callback(chunk))
            except torch.OutOfMemoryError:
                halves = split(chunk)
                if len(halves) == 1:
                    raise
                pending += reversed(halves)
            else:
                yield chunk, measured

    def _split_notice(self, chunk: Chunk) -> str:
        memory = format_amount(self.memory_budget.memory, "B")
        return (
            f"memory ran out with {len(chunk.policies)} policies on {len(chunk.samples)} samples "
            f"at once; continuing in halves (a --memory below {memory} makes smaller chunks)"
        )
