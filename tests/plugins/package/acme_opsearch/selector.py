"""A selector to choose policies by: `opsearch adapt RUN --selector acme-length`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from opsearch.problem import Prompt


@dataclass(frozen=True)
class Length:
    """The lengths of question and image in hundreds of tokens.

    The contract is `opsearch.problem.Features`.
    """

    needs = frozenset({"embeddings"})

    def features(self, prompt: Prompt) -> Tensor:
        """Return the features of each prompt, float32[B, 2]."""
        return torch.stack([prompt.question().sum(1), prompt.visual.sum(1)], 1).float() / 100
