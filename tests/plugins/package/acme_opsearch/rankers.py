"""Two rankers: one that orders tokens before the decoder, one that orders them inside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor
from torch.nn.functional import normalize

from opsearch.problem import (
    DECODER_ATTENTION,
    AttentionView,
    Prompt,
    owners,
    ranking_from_scores,
)


@dataclass(frozen=True)
class Outliers:
    """Tokens that differ most from the mean of their image.

    The contract is `opsearch.problem.Ranker`. Fields of the dataclass are the parameters that
    a user gives as `acme-outliers(centred=0)`.

    Attributes:
        centred: 1: compare with the mean; 0: rank by length alone.
    """

    centred: int = 1

    # The order is the same however many tokens are kept, so that policies may keep several counts.
    nested: ClassVar[bool] = True
    needs: ClassVar[frozenset[str]] = frozenset({"embeddings"})

    def __post_init__(self) -> None:
        # A TypeError is shown to the user as one sentence that names the ranker.
        if self.centred not in (0, 1):
            raise TypeError(f"centred={self.centred!r} is neither 0 nor 1")

    def rank(self, prompt: Prompt, n: Sequence[int]) -> Tensor:
        """Return the rank of each visual token, 0 for the best, int64[B, S]."""
        embeds = prompt.visual_embeds().float()
        if self.centred:
            owner = owners(prompt.n_visual).to(embeds.device)
            sums = embeds.new_zeros(len(prompt.n_visual), embeds.shape[1])
            sums.index_add_(0, owner, normalize(embeds, dim=1))
            scores = -(normalize(embeds, dim=1) * normalize(sums, dim=1)[owner]).sum(1)
        else:
            scores = embeds.norm(dim=1)
        return ranking_from_scores(prompt.scatter(scores), prompt.visual)


@dataclass(frozen=True)
class Peak:
    """Tokens that some heads of the last prompt token attend to most.

    The contract is `opsearch.problem.DecoderRanker`.

    Attributes:
        heads: Heads whose attention is averaged, the highest of each token.
    """

    heads: int = 1

    needs: ClassVar[frozenset[str]] = frozenset({DECODER_ATTENTION})
    query_rows: ClassVar[Literal["last"]] = "last"
    # It reads the layer before the one that it stands before, and so cannot stand before layer 0.
    layers_back: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not isinstance(self.heads, int) or self.heads < 1:
            raise TypeError(f"heads={self.heads!r} is no number of heads")

    def scores(self, view: AttentionView) -> Tensor:
        """Return the score of each key, higher is better, float32[B, K]."""
        by_head = view.attention()[:, :, 0]
        return by_head.topk(min(self.heads, by_head.shape[1]), dim=1).values.mean(1)
