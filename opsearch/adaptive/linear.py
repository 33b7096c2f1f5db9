"""A linear selector: the policy of the largest score of the question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from opsearch.errors import PolicyError
from opsearch.formatting import screen_repr

if TYPE_CHECKING:
    from opsearch.rankers.base import Prompt

Weights = NDArray[np.float32]

MOST = 8
"""Largest number of policies to choose among."""


@dataclass(frozen=True, eq=False)
class LinearSelector:
    """Chooses the policy of the largest score, which is linear in the question's features.

    The features of a question are those of `Prompt.question_direction`.

    Attributes:
        weights: float32[K, D], of K policies and a decoder of width D.
        bias: float32[K].
    """

    weights: Weights
    bias: Weights

    needs: ClassVar[frozenset[str]] = frozenset({"text_embeddings"})

    __repr__ = screen_repr

    def __post_init__(self) -> None:
        for name in ("weights", "bias"):  # files and digests hold them in rows
            object.__setattr__(self, name, np.ascontiguousarray(getattr(self, name)))
        shapes = self.weights.shape, self.bias.shape
        if self.weights.ndim != 2 or shapes[1] != shapes[0][:1]:
            raise PolicyError(
                f"a selector has weights [K, D] and bias [K], these are {list(shapes[0])} and "
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
        """Number of features D."""
        width: int = self.weights.shape[1]
        return width

    def scores(self, features: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return the scores of questions, float64[S, K], from their features [S, D]."""
        scores: NDArray[np.float64] = features.astype(np.float64) @ self.weights.T.astype(float)
        return scores + self.bias

    def choose(self, prompt: Prompt) -> list[int]:
        """Return the index of each sample's policy; synchronizes with the device once.

        Raises:
            PolicyError: The model has another width.
        """
        features = prompt.question_direction().cpu().numpy()
        if features.shape[1] != self.width:
            raise PolicyError(
                f"the selector was fitted to embeddings of width {self.width}, the model's have "
                f"{features.shape[1]}; use the set with the model that it was searched on"
            )
        chosen: list[int] = self.scores(features).argmax(axis=1).tolist()
        return chosen
