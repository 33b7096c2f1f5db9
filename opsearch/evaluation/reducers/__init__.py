"""Reducers replace the visual tokens by fewer ones before an unmodified decoder.

Policies only select tokens, so they cannot express a reducer; comparisons treat reducers as
separate methods. The new tokens have consecutive positions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Protocol

from opsearch.costs.base import SampleSize
from opsearch.errors import ModelError
from opsearch.evaluation.reducers.pool import Pool
from opsearch.evaluation.reducers.resize import Resize

if TYPE_CHECKING:
    from opsearch.models.encoding import Sample


class Reducer(Protocol):
    """Reduction of samples to a maximum number of visual tokens per image.

    Reduced samples keep the digest of their item.
    """

    @property
    def granularity(self) -> str:
        """Reason why a part of a budget may stay unused."""

    def reduced(self, samples: Sequence[Sample], tokens: int) -> list[Sample]:
        """Return the inputs of the reduced samples, with at most `tokens` per image."""

    def applied(self, model: Any, tokens: int) -> AbstractContextManager[None]:
        """Return a context manager in which the model accepts the reduced samples."""


@dataclass(frozen=True)
class Reduction:
    """Reducer with a maximum number of tokens per image.

    Attributes:
        reducer: Name of the reducer.
        tokens: Maximum number of visual tokens per image.
        n_visual: Visual tokens of each reduced calibration sample.
        image_flops: FLOPs of vision tower and projector for each of them, which fewer pixels lower;
            empty if they are not known.
    """

    reducer: str
    tokens: int
    n_visual: tuple[int, ...]
    image_flops: tuple[int, ...] = ()

    @property
    def name(self) -> str:
        """Name in comparisons."""
        # Stored measurements are keyed by this text: never reword it.
        return f"{self.reducer}(up to {self.tokens} tokens a picture)"

    @property
    def key(self) -> str:
        """Key of its stored measurements, like the canonical key of a policy."""
        return hashlib.sha256(self.name.encode()).hexdigest()

    @property
    def text(self) -> str:
        """JSON form in stored comparisons."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str) -> Reduction | None:
        """Parse the JSON form; return None for that of a policy."""
        raw = json.loads(text)
        if "reducer" not in raw:
            return None
        flops = tuple(raw.get("image_flops", ()))  # earlier versions stored none
        return cls(raw["reducer"], raw["tokens"], tuple(raw["n_visual"]), flops)

    def sizes(self, n_other: Sequence[int]) -> list[SampleSize]:
        """Return the sizes of the reduced samples, given their other tokens."""
        flops = self.image_flops or [None] * len(self.n_visual)
        return [SampleSize(*each) for each in zip(self.n_visual, n_other, flops, strict=True)]


REDUCERS: dict[str, type[Any]] = {"pool": Pool, "resize": Resize}
"""Factories (config, processor) by name; ModelError if the family is not supported."""


def usable_reducers(config: Any, processor: Any) -> tuple[dict[str, Reducer], list[str]]:
    """Return the reducers that a model supports, and the errors of the others."""
    found, refusals = {}, []
    for name, factory in REDUCERS.items():
        try:
            found[name] = factory(config, processor)
        except ModelError as error:
            refusals.append(str(error))
    return found, refusals


def largest_reduction(
    name: str,
    reducer: Reducer,
    samples: Sequence[Sample],
    fits: Callable[[Sequence[SampleSize]], bool],
) -> Reduction | None:
    """Find the largest number of tokens per image whose samples fit, by bisection.

    Args:
        name: Name of the reducer.
        reducer: The reducer.
        samples: Calibration samples.
        fits: Returns True if samples of these sizes are within the budget.

    Returns:
        The reduction, None if even one token per image is too many.
    """
    low, high = 0, max(sample.n_visual for sample in samples)
    best = None
    while low < high:
        tokens = (low + high + 1) // 2
        sizes = [sample.size for sample in reducer.reduced(samples, tokens)]
        if fits(sizes):
            n_visual = tuple(size.n_visual for size in sizes)
            flops = tuple(size.image_flops for size in sizes if size.image_flops is not None)
            known = flops if len(flops) == len(sizes) else ()
            low, best = tokens, Reduction(name, tokens, n_visual, known)
        else:
            high = tokens - 1
    return best
