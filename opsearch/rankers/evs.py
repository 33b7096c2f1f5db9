"""EVS: tokens of videos that differ from the preceding frame.

The score of a token is 1 - the cosine similarity to the token at the same place of the preceding
frame, both as they enter the decoder. First frames are kept before all others, and images count as
first frames. The paper compares pixels; engines that serve EVS compare embeddings, as here. Source:
EVS (arXiv 2510.14624), and its descriptions in vLLM and SGLang.

EVS never drops a first frame. A policy may keep fewer tokens than those have; they are then taken
in the order of a van der Corput sequence, whose first n are spread over the frame for every n. Thus
images alone are thinned evenly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from opsearch.rankers.base import PREVIOUS_FRAME, Prompt, owners, ranking_from_scores
from opsearch.rankers.tiles import rounded
from opsearch.rankers.upload import upload

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class EVS:
    """Ranking by dissimilarity to the token at the same place of the preceding frame."""

    nested = True
    needs = frozenset({"embeddings", PREVIOUS_FRAME})

    def rank(self, prompt: Prompt, n: Sequence[int]) -> Tensor:
        """Return the rank of each visual token, int64[B, S], see `Ranker.rank`."""
        import torch
        from torch.nn.functional import normalize

        if not sum(prompt.n_visual):
            return torch.full_like(prompt.visual, -1, dtype=torch.int64)
        step = prompt.captured[PREVIOUS_FRAME].numpy()
        first = upload(_order_of_first(step, owners(prompt.n_visual).numpy()), prompt.visual.device)
        before = upload(np.arange(len(step)) - step, prompt.visual.device)
        unit = normalize(prompt.visual_embeds().float(), dim=-1)
        changed = 1 - rounded((unit * unit[before]).sum(-1))
        # Dissimilarities are at most 2.
        scores = torch.where(first >= 0, 3.0 + len(step) - first, changed)
        return ranking_from_scores(prompt.scatter(scores), prompt.visual)


def _order_of_first(step: NDArray[np.int64], sample: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the place of tokens without a preceding frame among those of their sample, else -1."""
    order = np.full(len(step), -1)
    for each in np.unique(sample):
        tokens = np.flatnonzero((sample == each) & (step == 0))
        order[tokens] = spread_places(len(tokens))
    return order


def spread_places(number: int) -> NDArray[np.int64]:
    """Return the place of each of `number` tokens in an order whose prefixes are evenly spread.

    It sorts the tokens by the reversed bits of their index.
    """
    bits = max(1, number - 1).bit_length()
    index = np.arange(number)
    reverse = sum(((index >> bit) & 1) << (bits - 1 - bit) for bit in range(bits))
    places = np.empty(number, np.int64)
    places[np.argsort(reverse, kind="stable")] = index
    return places
