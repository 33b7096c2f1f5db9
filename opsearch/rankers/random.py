"""A random permutation, a baseline that ignores the content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from opsearch.errors import echo
from opsearch.rankers.base import Prompt, ranking_from_scores
from opsearch.rankers.upload import upload

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Random:
    """Random permutation of N visual tokens, the baseline that other rankers must beat.

    It depends only on (seed, N), so beams, batches and repeated runs of a sample agree.

    Attributes:
        seed: Seed of the generator, together with N.
        nested: See `Ranker`.
        needs: See `Ranker`.
    """

    seed: int = 0
    nested = True
    needs = frozenset[str]()

    def __post_init__(self) -> None:
        if not isinstance(self.seed, int) or self.seed < 0:
            raise TypeError(f"seed {echo(self.seed)} is not a natural number")

    def rank(self, prompt: Prompt, n: Sequence[int]) -> Tensor:
        """Return the rank of each visual token, int64[B, S], see `Ranker.rank`."""
        import torch

        drawn = {total: self._scores(total) for total in set(prompt.n_visual)}
        scores = torch.cat([drawn[total] for total in prompt.n_visual])
        scores = upload(scores, prompt.visual.device)
        return ranking_from_scores(prompt.scatter(scores), prompt.visual)

    def _scores(self, total: int) -> Tensor:
        # NumPy keeps the raw stream stable across releases, but not permutation().
        import torch

        drawn = np.random.PCG64([self.seed, total]).random_raw(total)
        return torch.from_numpy(np.argsort(np.argsort(drawn)).astype(np.float32))
