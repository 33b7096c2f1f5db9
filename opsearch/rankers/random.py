"""A random permutation: the baseline that every ranking must beat.

It is drawn from (seed, N) alone, so that beams, batch rows and repeated runs of a sample agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from opsearch.rankers.prompt import Prompt, ranking_from_scores
from opsearch.upload import upload


@dataclass(frozen=True)
class Random:
    """A permutation of the N visual tokens drawn from (seed, N)."""

    seed: int = 0
    nested = True
    needs = frozenset[str]()

    def __post_init__(self) -> None:
        if not isinstance(self.seed, int) or self.seed < 0:
            raise TypeError(f"seed {self.seed!r} is no natural number")

    def rank(self, prompt: Prompt, n: Sequence[int]) -> Tensor:
        """Place of each visual token, int64[B, S], -1 elsewhere."""
        drawn = {total: self._scores(total) for total in set(prompt.n_visual)}
        scores = torch.cat([drawn[total] for total in prompt.n_visual])
        scores = upload(scores, prompt.visual.device)
        return ranking_from_scores(prompt.scatter(scores), prompt.visual)

    def _scores(self, total: int) -> Tensor:
        # The raw stream is the same in all releases of numpy, its permutation() need not be.
        drawn = np.random.PCG64([self.seed, total]).random_raw(total)
        return torch.from_numpy(np.argsort(np.argsort(drawn)).astype(np.float32))
