"""Measurements that a call requests, and the ones missing from the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from opsearch.policy.builders import identity
from opsearch.policy.policy import Policy
from opsearch.problem.spaces.point_policies import canonical_keys

if TYPE_CHECKING:
    from opsearch.measure.storage.store import Store
    from opsearch.models.encoding import Sample


class KeyedPolicy(NamedTuple):
    """A policy and its canonical key for some number of visual tokens."""

    key: str
    policy: Policy


@dataclass(frozen=True)
class Missing:
    """Policies to measure on samples with an equal number of visual tokens.

    Attributes:
        policies: The policies, with their keys for that number.
        samples: The samples.
    """

    policies: list[KeyedPolicy]
    samples: list[Sample]


class Requests:
    """Canonical keys of policies on samples; equal policies have equal keys.

    The original has divergence 0 by definition. On a sample with an image setting, the policy that
    prunes nothing is measured like any other.

    Attributes:
        keys: Keys of all policies by number of visual tokens.
        original: Key of the original by number of visual tokens.
    """

    def __init__(self, policies: Sequence[Policy], samples: Sequence[Sample]) -> None:
        self.policies, self.samples = list(policies), samples
        counts = sorted({sample.n_visual for sample in samples})
        self.keys = {n: canonical_keys(policies, n) for n in counts}
        layers = self.policies[0].num_layers
        self.original = {n: identity(layers).canonical(n) for n in counts}

    @property
    def all_keys(self) -> list[str]:
        """Keys for all numbers of visual tokens."""
        return [key for keys in self.keys.values() for key in keys]

    def missing(self, found: dict[tuple[str, str], float]) -> list[Missing]:
        """Return the missing measurements, by number of visual tokens and set of policies."""
        groups: dict[tuple[Any, ...], Missing] = {}
        for sample in self.samples:
            n = sample.n_visual
            requested = dict(zip(self.keys[n], self.policies, strict=True))
            if sample.original is None:
                requested.pop(self.original[n], None)
            missing = [
                KeyedPolicy(*pair)
                for pair in requested.items()
                if (pair[0], sample.digest) not in found
            ]
            if missing:
                key = (n, *(keyed.key for keyed in missing))
                groups.setdefault(key, Missing(missing, [])).samples.append(sample)
        return list(groups.values())

    def values(self, found: dict[tuple[str, str], float]) -> NDArray[np.float64]:
        """Return the stored values float64[P, S], nan where missing."""
        table = np.full((len(self.policies), len(self.samples)), np.nan)
        for column, sample in enumerate(self.samples):
            n = sample.n_visual
            for row, key in enumerate(self.keys[n]):
                original = key == self.original[n] and sample.original is None
                table[row, column] = 0.0 if original else found.get((key, sample.digest), np.nan)
        return table


def missing_noise(key: str, samples: Sequence[Sample], layers: int, store: Store) -> list[Missing]:
    """Return the samples whose noise under `key` is not stored, by number of visual tokens."""
    found = store.get([key])
    original = [KeyedPolicy(key, identity(layers))]
    missing: dict[int, Missing] = {}
    for sample in samples:
        if sample.n_visual and (key, sample.digest) not in found:
            missing.setdefault(sample.n_visual, Missing(original, [])).samples.append(sample)
    return list(missing.values())
