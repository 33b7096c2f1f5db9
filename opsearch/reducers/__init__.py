"""Reducers make new, fewer visual tokens before the decoder; it then runs as it is.

A ranker only orders tokens, so no policy can say what a reducer does: reducers stand in comparisons
as methods of their own. Their tokens have positions one behind the other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from opsearch.errors import ModelError
from opsearch.measure.samples import Sample
from opsearch.reducers.pool import Pool
from opsearch.reducers.resize import Resize


class Reducer(Protocol):
    """Makes samples of at most so many visual tokens per picture.

    Samples keep their item's digest: they are the same questions.
    """

    def reduced(self, samples: Sequence[Sample], tokens: int) -> list[Sample]:
        """The samples as the model is to be called with them."""

    def applied(self, model: Any, tokens: int) -> AbstractContextManager[None]:
        """A block in which the model takes them."""


@dataclass(frozen=True)
class Reduction:
    """A reducer with its limit of tokens per picture.

    n_visual: what is left of each calibration sample.
    """

    reducer: str
    tokens: int
    n_visual: tuple[int, ...]

    @property
    def name(self) -> str:
        return f"{self.reducer}(up to {self.tokens} tokens a picture)"

    @property
    def key(self) -> str:
        """What its measurements are stored under, like a policy's canonical key."""
        return hashlib.sha256(self.name.encode()).hexdigest()

    @property
    def text(self) -> str:
        """As a comparison stores it."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> Reduction | None:
        """What `text` gave; None for the text of a policy."""
        raw = json.loads(text)
        if "reducer" not in raw:
            return None
        return cls(raw["reducer"], raw["tokens"], tuple(raw["n_visual"]))


REDUCERS: dict[str, Callable[[Any, Any], Reducer]] = {"pool": Pool, "resize": Resize}
"""By name, made from (config, processor); ModelError where the family cannot be reduced so."""


def usable_reducers(config: Any, processor: Any) -> tuple[dict[str, Reducer], list[str]]:
    """Those that a model can use, and a sentence for each of the others."""
    found, refusals = {}, []
    for name, factory in REDUCERS.items():
        try:
            found[name] = factory(config, processor)
        except ModelError as error:
            refusals.append(str(error))
    return found, refusals


def largest_reduction(
    name: str, reducer: Reducer, samples: Sequence[Sample], fits: Callable[[Sequence[int]], bool]
) -> Reduction | None:
    """The most tokens per picture whose samples fit, None where even one is too many.

    fits: of the visual tokens left of each sample.
    """
    low, high = 0, max(sample.n_visual for sample in samples)
    best = None
    while low < high:
        tokens = (low + high + 1) // 2
        left = tuple(sample.n_visual for sample in reducer.reduced(samples, tokens))
        if fits(left):
            low, best = tokens, Reduction(name, tokens, left)
        else:
            high = tokens - 1
    return best
