"""Which measurements a call asks for, and which of them the store lacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from opsearch.builders import identity
from opsearch.measure.samples import Sample
from opsearch.policy import Policy
from opsearch.space import canonical_keys


class Keyed(NamedTuple):
    """A policy and its canonical key for the samples in question."""

    key: str
    policy: Policy


@dataclass(frozen=True)
class Todo:
    """Policies that are missing on all of these samples, which have equally many visual tokens."""

    policies: list[Keyed]
    samples: list[Sample]


class Keys:
    """Canonical keys of policies on samples; equal policies are one key."""

    def __init__(self, policies: Sequence[Policy], samples: Sequence[Sample]) -> None:
        self.policies, self.samples = list(policies), samples
        counts = sorted({sample.n_visual for sample in samples})
        self.of = {n: canonical_keys(policies, n) for n in counts}
        layers = self.policies[0].num_layers
        self.original = {n: identity(layers).canonical(n) for n in counts}

    @property
    def all(self) -> list[str]:
        return [key for keys in self.of.values() for key in keys]

    def missing(self, found: dict[tuple[str, str], float]) -> list[Todo]:
        """What must be measured, by number of visual tokens and by the set of policies missing."""
        work: dict[tuple[Any, ...], Todo] = {}
        for sample in self.samples:
            n = sample.n_visual
            wanted = dict(zip(self.of[n], self.policies, strict=True))
            wanted.pop(self.original[n], None)
            lacking = [
                Keyed(*pair) for pair in wanted.items() if (pair[0], sample.digest) not in found
            ]
            if lacking:
                key = (n, *(keyed.key for keyed in lacking))
                work.setdefault(key, Todo(lacking, [])).samples.append(sample)
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
