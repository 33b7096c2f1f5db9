"""The choice of a policy: that of the largest score, which is linear in a request's features."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from opsearch.adaptive import DEFAULT_SELECTOR
from opsearch.adaptive.features import make_features
from opsearch.errors import PolicyError
from opsearch.formatting import screen_repr

if TYPE_CHECKING:
    from opsearch.rankers.base import Features, Prompt

Weights = NDArray[np.float32]

MOST = 8
"""Largest number of policies to choose among."""


@dataclass(frozen=True, eq=False)
class LinearSelector:
    """Chooses the policy of the largest score, which is linear in the features of a request.

    Attributes:
        weights: float32[K, F], of K policies and F features.
        bias: float32[K].
        reads: Selector that makes the features, as typed, see `opsearch.adaptive.features`.
    """

    weights: Weights
    bias: Weights
    reads: str = DEFAULT_SELECTOR

    __repr__ = screen_repr

    def __post_init__(self) -> None:
        for name in ("weights", "bias"):  # files and digests hold them in rows
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name)))
        shapes = self.weights.shape, self.bias.shape
        if self.weights.ndim != 2 or shapes[1] != shapes[0][:1]:
            raise PolicyError(
                f"a selector has weights [K, F] and bias [K], these are {list(shapes[0])} and "
                f"{list(shapes[1])}; give one row and one number per policy"
            )
        if not (np.isfinite(self.weights).all() and np.isfinite(self.bias).all()):
            raise PolicyError(
                "a weight of the selector is not a finite number; fit the selector again"
            )

    @property
    def policies(self) -> int:
        """Number of policies K that it chooses among."""
        return len(self.bias)

    @property
    def width(self) -> int:
        """Number of features F."""
        width: int = self.weights.shape[1]
        return width

    @cached_property
    def features(self) -> Features:
        """The selector that makes the features."""
        return make_features(self.reads)

    @property
    def needs(self) -> frozenset[str]:
        """Inputs that the features are made of."""
        return self.features.needs

    def scores(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the scores of requests, float64[S, K], from their features [S, F]."""
        scores: NDArray[np.float64] = features.astype(np.float64) @ self.weights.T.astype(float)
        return scores + self.bias

    def choose(self, prompt: Prompt) -> list[int]:
        """Return the index of each sample's policy; synchronizes with the device once.

        Raises:
            PolicyError: The model has another width.
        """
        features = self.features.features(prompt).cpu().numpy()
        if features.shape[1] != self.width:
            raise PolicyError(
                f"the selector was fitted to {self.width} features, this model gives "
                f"{features.shape[1]}; use the set with the model that it was searched on"
            )
        chosen: list[int] = self.scores(features).argmax(axis=1).tolist()
        return chosen
