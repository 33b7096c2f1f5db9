"""Contracts of rankers and selectors, and their inputs: prompts, and attention of a layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol

from opsearch.formatting import screen_repr
from opsearch.rankers.upload import upload

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Ranker inputs that come from the prompt itself and are not captured in the vision tower.
PROMPT_NEEDS = frozenset({"embeddings", "question_embeddings", "text_embeddings"})

# Those that are text of the prompt. "question_embeddings" are compared with image features and
# refused where that means nothing; "text_embeddings" are compared all the same.
TEXT_NEEDS = frozenset({"question_embeddings", "text_embeddings"})

# Ranker inputs from a CLIP model; its folder or hub id follows.
CLIP_PATCHES, CLIP_QUESTION = "clip_patches:", "clip_question:"

# Ranker input from the vision tower; the layer follows, an index or a share of its depth.
RECEIVED = "received_attention:"

# Ranker input from videos: see `Prompt.captured`.
PREVIOUS_FRAME = "previous_frame"

# Captured inputs that stay on the CPU, because rankers compute with them there.
ON_HOST = ("tiles", PREVIOUS_FRAME)

DECODER_ATTENTION = "decoder_attention"  # input of all rankers inside the decoder


@dataclass(eq=False)
class Prompt:
    """Batch of prompts during its prefill.

    Attributes:
        visual: Mask of the visual tokens, bool[B, S].
        real: Mask of the tokens that are not padding, bool[B, S].
        n_visual: Number of visual tokens of each sample.
        captured: Values captured in the vision tower, one row per visual token of the batch, e.g.
            "cls_attention": float[sum of n_visual]; CLIP's questions have one row per sample.
        embeds: Embeddings that enter the decoder, [B, S, D]; None before they are computed.
    """

    visual: Tensor
    real: Tensor
    n_visual: tuple[int, ...]
    captured: dict[str, Tensor] = field(default_factory=dict)
    embeds: Tensor | None = None

    __repr__ = screen_repr

    @cached_property
    def n_other(self) -> tuple[int, ...]:
        """Number of other tokens of each sample; synchronizes with the device unless it is set."""
        return tuple((self.real & ~self.visual).sum(1).tolist())

    def to(self, device: torch.device) -> Prompt:
        """Return a copy on another device; inputs in ON_HOST stay on the CPU."""
        captured = {
            name: value if name in ON_HOST else value.to(device)
            for name, value in self.captured.items()
        }
        embeds = None if self.embeds is None else self.embeds.to(device)
        moved = Prompt(
            self.visual.to(device), self.real.to(device), self.n_visual, captured, embeds
        )
        if "n_other" in vars(self):
            moved.n_other = self.n_other
        return moved

    def split(self) -> list[Prompt]:
        """Return the prompt of each sample; they share their memory."""
        ends = list(accumulate(self.n_visual))
        tokens = [slice(end - n, end) for n, end in zip(self.n_visual, ends, strict=True)]
        parts = []
        for row, of_row in enumerate(tokens):
            alone = slice(row, row + 1)
            captured = {
                name: value[alone if name.startswith(CLIP_QUESTION) else of_row]
                for name, value in self.captured.items()
            }
            embeds = None if self.embeds is None else self.embeds[alone]
            parts.append(
                Prompt(self.visual[alone], self.real[alone], self.n_visual[alone], captured, embeds)
            )
        return parts

    def scatter(self, per_token: Tensor) -> Tensor:
        """Scatter scores float[sum of n_visual] to float32[B, S], -inf at other positions."""
        import torch

        scores = torch.full(
            self.visual.shape, -torch.inf, dtype=torch.float32, device=self.visual.device
        )
        return scores.masked_scatter(self.visual, per_token.float())

    def visual_embeds(self) -> Tensor:
        """Return the embeddings of all visual tokens, [sum of n_visual, D]."""
        import torch

        assert self.embeds is not None
        longest = max(self.n_visual)
        columns = torch.argsort(self.visual.int(), dim=1, descending=True, stable=True)[:, :longest]
        index = columns[..., None].expand(-1, -1, self.embeds.shape[-1])
        rows = torch.cat([torch.arange(n) + b * longest for b, n in enumerate(self.n_visual)])
        flat = self.embeds.gather(1, index).flatten(0, 1)
        return flat.index_select(0, upload(rows, columns.device))

    def question(self) -> Tensor:
        """Return a mask of the text after the last visual token, bool[B, S]."""
        import torch

        columns = torch.arange(self.visual.shape[1], device=self.visual.device)
        last = (columns * self.visual).amax(1, keepdim=True)
        return self.real & ~self.visual & (columns > last)

    def question_direction(self) -> Tensor:
        """Return the mean direction of the embeddings of each sample's question, float32[B, D]."""
        from torch.nn.functional import normalize

        assert self.embeds is not None
        is_question = self.question()[..., None]
        total = (normalize(self.embeds.float(), dim=-1) * is_question).sum(1)
        return total / is_question.sum(1).clamp(min=1)


def ranking_from_scores(scores: Tensor, visual: Tensor) -> Tensor:
    """Rank visual tokens by descending score; ties are broken by position.

    Args:
        scores: Scores, float[B, S].
        visual: Mask of the visual tokens, bool[B, S].

    Returns:
        Ranks int64[B, S], -1 at other positions.
    """
    import torch

    lowest = torch.finfo(scores.dtype).min
    scores = scores.clamp(min=lowest).masked_fill(~visual, -torch.inf)
    order = torch.argsort(scores, dim=1, descending=True, stable=True)
    ranks = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter(1, order, ranks).masked_fill(~visual, -1)


def owners(n_visual: Sequence[int]) -> Tensor:
    """Return the sample of each visual token, int64[sum of n_visual] on the CPU."""
    import torch

    return torch.arange(len(n_visual)).repeat_interleave(torch.tensor(n_visual, dtype=torch.int64))


@dataclass(frozen=True, eq=False)
class AttentionView:
    """Rotated queries and keys of one layer, padded to the longest of B prompts.

    Attributes:
        prompt: The batch.
        queries: Queries of the rows that `DecoderRanker.query_rows` names, [B, H, Q, hd].
        query_positions: Their positions in the prompt, int64[B, Q].
        query_valid: Mask of the queries that are not padding, bool[B, Q].
        keys: Keys of the visual tokens to be ranked and of all other tokens, [B, H_kv, K, hd].
        key_positions: Their positions in the prompt, int64[B, K].
        key_valid: Mask of the keys that are not padding, bool[B, K].
        scaling: Factor of the attention logits.
        visible: Mask of the keys that each query sees, bool[B, Q, K]; None: those at its position
            or before.
    """

    prompt: Prompt
    queries: Tensor
    query_positions: Tensor
    query_valid: Tensor
    keys: Tensor
    key_positions: Tensor
    key_valid: Tensor
    scaling: float
    visible: Tensor | None = None

    __repr__ = screen_repr

    def attention(self, rows: slice = slice(None)) -> Tensor:
        """Return softmax attention from some queries to all keys, float32[B, H, q, K].

        Rows of padding queries, and of queries without any visible key, are 0.
        """
        import torch

        keys = self.keys.float()
        queries = self.queries[:, :, rows].float()
        heads, number = queries.shape[1:3]
        # Heads that share a key head are concatenated, so one product computes all of them.
        queries = queries.unflatten(1, (keys.shape[1], -1)).flatten(2, 3)
        scores = (queries @ keys.transpose(-1, -2) * self.scaling).reshape(
            len(keys), heads, number, -1
        )
        if self.visible is None:
            visible = self.key_positions[:, None, :] <= self.query_positions[:, rows, None]
        else:
            visible = self.visible[:, rows]
        visible = visible & self.key_valid[:, None, :] & self.query_valid[:, rows, None]
        weights: Tensor = scores.masked_fill(~visible[:, None], -torch.inf).softmax(-1)
        return weights.nan_to_num(0.0)


class DecoderRanker(Protocol):
    """Ranker of visual tokens inside the decoder, by the attention of one layer.

    Attributes:
        layers_back: Distance from the layer before which a policy places the ranker back to the
            layer whose attention it reads: 0 for that layer itself, 1 for the preceding one.
    """

    layers_back: ClassVar[int]

    @property
    def needs(self) -> frozenset[str]:
        """Inputs that the ranker reads: DECODER_ATTENTION and names in PROMPT_NEEDS."""

    @property
    def query_rows(self) -> Literal["last", "text", "all"]:
        """Rows whose queries the ranker reads.

        The last row of the prompt ("last"), all other tokens ("text"), or these and the visual
        tokens to be ranked ("all").
        """

    def scores(self, view: AttentionView) -> Tensor:
        """Return scores of the keys, higher is better, float32[B, K].

        Scores of keys that are not visual tokens are ignored.
        """


class Ranker(Protocol):
    """Ranker of visual tokens before the decoder."""

    @property
    def nested(self) -> bool:
        """True if the ranking is the same for all n, so that a policy may use several counts."""

    @property
    def needs(self) -> frozenset[str]:
        """Inputs that the ranker reads: entries of `Prompt.captured` or names in PROMPT_NEEDS.

        A ranker that reads text of the prompt names one of TEXT_NEEDS or a CLIP_QUESTION.
        """

    def rank(self, prompt: Prompt, n: Sequence[int]) -> Tensor:
        """Return the rank of each visual token, 0 for the best.

        Args:
            prompt: The batch.
            n: Number of tokens to select in each sample; only ranks below it must be exact.

        Returns:
            int64[B, S], -1 at other positions.
        """


class Features(Protocol):
    """Selector: numbers of each prompt of a batch, by which a set chooses a policy."""

    @property
    def needs(self) -> frozenset[str]:
        """Inputs that are read: "embeddings", and "text_embeddings" for text of the prompt."""

    def features(self, prompt: Prompt) -> Tensor:
        """Return the features of each prompt, float32[B, F].

        They are functions of the prompt alone, whatever stands in the batch beside it.

        Args:
            prompt: The batch, with its embeddings.
        """
