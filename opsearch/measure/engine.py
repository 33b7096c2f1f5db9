"""Measures policies on samples: KL of the pruned model's answer from the original's.

Samples of equal shape share a forward, and so do policies whose q and kv counts are equal (their
MLP rows are ragged anyway): neither needs padding or masks. What the store holds is not measured
again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opsearch.builders import identity
from opsearch.measure.divergence import divergence
from opsearch.measure.reference import Reference, check_finite, make_reference
from opsearch.measure.samples import Sample, batches
from opsearch.measure.store import Measurement, Store
from opsearch.policy import KV, Policy, Q
from opsearch.rankers import make_ranker
from opsearch.runtime.adapters import check_supported
from opsearch.runtime.apply import patched_layers
from opsearch.runtime.cache import PrunedCache
from opsearch.runtime.ranking import policy_ranker, rank_and_plan

ENGINE_VERSION = 1
_KEPT_BYTES = 2 * 10**9  # of originals, so that asking policy by policy does not run them again
Progress = Callable[[int, int], None]


class Engine:
    """Measures with one model and writes to one store.

    positions: answer tokens compared; max_tokens: positions per forward, all policies together.
    """

    def __init__(
        self, model: Any, store: Store, positions: int = 1, max_tokens: int = 8192
    ) -> None:
        self.model, self.store = model, store
        self.positions, self.max_tokens = positions, max_tokens
        self.adapter = check_supported(model)
        self.measured = 0
        self._references: dict[tuple[str, ...], Reference] = {}

    def measure(
        self,
        policies: Sequence[Policy],
        samples: Sequence[Sample],
        progress: Progress | None = None,
    ) -> NDArray[np.float64]:
        """KL in nats of every policy on every sample, float64[P, S].

        The original itself has divergence 0 by definition. `progress` is called with the number of
        (policy, sample) pairs done and to do.
        """
        keys = _Keys(policies, samples)
        todo = keys.missing(self.store.get(keys.all))
        total, done = sum(len(batch.policies) * len(batch.samples) for batch in todo), 0
        for chunk in todo:
            for measured in self._measure_batch(chunk):
                self.store.add(measured)
                self.measured += len(measured)
                done += len(measured)
                if progress:
                    progress(done, total)
        return keys.values(self.store.get(keys.all))

    def _measure_batch(self, chunk: _Todo) -> Iterator[list[Measurement]]:
        for samples in batches(chunk.samples, self.max_tokens):
            reference = self._reference(samples, chunk.policies)
            width = max(1, self.max_tokens // (len(samples) * sum(samples[0].shape)))
            for group in _stackable(chunk.policies, samples[0].n_visual, width):
                yield self._measure_group(group, reference)

    def _reference(self, samples: Sequence[Sample], policies: Sequence[Policy]) -> Reference:
        """The original on these samples, kept for the next call where memory allows."""
        needs = frozenset(
            need for p in policies for _, spec in p.rankers for need in make_ranker(spec).needs
        )
        key = (*sorted(needs), *(sample.digest for sample in samples))
        if key in self._references:
            return self._references[key]
        made = make_reference(self.model, self.adapter, samples, needs, self.positions)
        if sum(ref.nbytes for ref in self._references.values()) + made.nbytes <= _KEPT_BYTES:
            self._references[key] = made
        return made

    @torch.no_grad()
    def _measure_group(self, group: Sequence[Policy], ref: Reference) -> list[Measurement]:
        """Run policies of equal q and kv counts, stacked along the batch, and compare answers."""
        copies, size = len(group), len(ref.samples)
        rows = [policy for policy in group for _ in ref.samples]
        prompt = _repeat_prompt(ref.prompt, copies)
        plan = rank_and_plan(prompt, rows, policy_ranker(group[0]))
        cache = PrunedCache(group[0].num_layers, plan, store=False)
        inputs = {name: _repeat(value, copies, size) for name, value in ref.decoder_inputs.items()}
        with patched_layers(self.model, self.adapter):
            decoder = self.model.get_submodule(self.adapter.decoder)
            hidden = decoder(**{**inputs, "past_key_values": cache}).last_hidden_state
        logits = self.model.get_output_embeddings()(hidden[:, -ref.counted.shape[1] :])
        check_finite(logits, ref.samples * copies, [f"policy {p.name}" for p in rows])
        result = divergence(ref.logits.repeat(copies, 1, 1), logits, ref.counted.repeat(copies, 1))
        columns = [t.tolist() for t in (result.kl, result.reverse_kl, result.js, result.top1)]
        digests = [sample.digest for sample in ref.samples] * copies
        n_visual = ref.samples[0].n_visual
        policies = [key for policy in group for key in [policy.canonical(n_visual)] * size]
        return [Measurement(*row) for row in zip(policies, digests, *columns, strict=True)]


@dataclass(frozen=True)
class _Todo:
    """Policies that are missing on all of these samples, which have equal shapes."""

    policies: list[Policy]
    samples: list[Sample]


class _Keys:
    """Canonical keys of policies on samples; equal policies are one key."""

    def __init__(self, policies: Sequence[Policy], samples: Sequence[Sample]) -> None:
        self.policies, self.samples = policies, samples
        counts = sorted({sample.n_visual for sample in samples})
        self.of = {n: [policy.canonical(n) for policy in policies] for n in counts}
        layers = policies[0].num_layers
        self.original = {n: identity(layers).canonical(n) for n in counts}

    @property
    def all(self) -> list[str]:
        return [key for keys in self.of.values() for key in keys]

    def missing(self, found: dict[tuple[str, str], float]) -> list[_Todo]:
        """What must be measured, by shape of sample and by the set of policies missing there."""
        work: dict[tuple[Any, ...], _Todo] = {}
        for sample in self.samples:
            n = sample.n_visual
            wanted = dict(zip(self.of[n], self.policies, strict=True))
            wanted.pop(self.original[n], None)
            lacking = [key for key in wanted if (key, sample.digest) not in found]
            if lacking:
                policies = [wanted[key] for key in lacking]
                todo = work.setdefault((sample.shape, *lacking), _Todo(policies, []))
                todo.samples.append(sample)
        return list(work.values())

    def values(self, found: dict[tuple[str, str], float]) -> NDArray[np.float64]:
        """The stored values, nan where there is none."""
        table = np.full((len(self.policies), len(self.samples)), np.nan)
        for column, sample in enumerate(self.samples):
            n = sample.n_visual
            for row, key in enumerate(self.of[n]):
                original = key == self.original[n]
                table[row, column] = 0.0 if original else found.get((key, sample.digest), np.nan)
        return table


def _stackable(policies: Sequence[Policy], n_visual: int, width: int) -> Iterator[list[Policy]]:
    """Groups of at most `width` policies with equal rankers and equal q and kv counts."""
    alike: dict[tuple[Any, ...], list[Policy]] = {}
    for policy in policies:
        attention = policy.executed(n_visual)[:, [Q, KV]].tobytes()
        alike.setdefault((policy.rankers, attention), []).append(policy)
    for group in alike.values():
        for start in range(0, len(group), width):
            yield group[start : start + width]


def _repeat_prompt(prompt: Any, copies: int) -> Any:
    captured = {name: value.repeat(copies) for name, value in prompt.captured.items()}
    visual, real = prompt.visual.repeat(copies, 1), prompt.real.repeat(copies, 1)
    return type(prompt)(visual, real, prompt.n_visual * copies, captured)


def _repeat(value: Any, copies: int, size: int) -> Any:
    """A decoder input for `copies` stacked copies of a batch of `size`."""
    if isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == size:
        return value.repeat(copies, *(1,) * (value.ndim - 1))
    return value
