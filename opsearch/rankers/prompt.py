"""What a ranker may see of a prompt: never its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from opsearch.upload import upload

# What a ranker may need that is read off the prompt itself, not captured in the vision tower.
OF_THE_PROMPT = frozenset({"embeddings", "question_embeddings"})


@dataclass(eq=False)
class Prompt:
    """One batch of prompts during its prefill.

    visual, real: bool[B, S]; n_visual: visual tokens of each sample; captured: what hooks took from
    the vision tower, e.g. "cls_attention": float[sum of n_visual], in the visual tokens' order;
    embeds: [B, S, D], what enters the decoder, None before that is known.
    """

    visual: Tensor
    real: Tensor
    n_visual: tuple[int, ...]
    captured: dict[str, Tensor] = field(default_factory=dict)
    embeds: Tensor | None = None

    @cached_property
    def n_other(self) -> tuple[int, ...]:
        """Other tokens of each sample; waits for the device unless it was set before."""
        return tuple((self.real & ~self.visual).sum(1).tolist())

    def to(self, device: torch.device) -> Prompt:
        """The same on another device; which tile a token is of stays on the CPU."""
        places = dict.fromkeys(self.captured, device) | {"tiles": torch.device("cpu")}
        captured = {name: value.to(places[name]) for name, value in self.captured.items()}
        embeds = None if self.embeds is None else self.embeds.to(device)
        moved = Prompt(
            self.visual.to(device), self.real.to(device), self.n_visual, captured, embeds
        )
        if "n_other" in vars(self):
            moved.n_other = self.n_other
        return moved

    def scatter(self, per_token: Tensor) -> Tensor:
        """Scores of all visual tokens, float[sum of n_visual], at their positions, else -inf."""
        scores = torch.full(
            self.visual.shape, -torch.inf, dtype=torch.float32, device=self.visual.device
        )
        return scores.masked_scatter(self.visual, per_token.float())

    def visual_embeds(self) -> Tensor:
        """Embeddings of all visual tokens as they enter the decoder, [sum of n_visual, D]."""
        assert self.embeds is not None
        longest = max(self.n_visual)
        places = torch.argsort(self.visual.int(), dim=1, descending=True, stable=True)[:, :longest]
        index = places[..., None].expand(-1, -1, self.embeds.shape[-1])
        rows = torch.cat([torch.arange(n) + b * longest for b, n in enumerate(self.n_visual)])
        flat = self.embeds.gather(1, index).flatten(0, 1)
        return flat.index_select(0, upload(rows, places.device))

    def question(self) -> Tensor:
        """Positions of the text behind the last visual token, bool[B, S]."""
        columns = torch.arange(self.visual.shape[1], device=self.visual.device)
        last = (columns * self.visual).amax(1, keepdim=True)
        return self.real & ~self.visual & (columns > last)


def ranking_from_scores(scores: Tensor, visual: Tensor) -> Tensor:
    """Ranks by falling score (ties: earlier position first) on visual positions, -1 elsewhere.

    scores: float[B, S]; visual: bool[B, S]; returns int64[B, S].
    """
    lowest = torch.finfo(scores.dtype).min
    scores = scores.clamp(min=lowest).masked_fill(~visual, -torch.inf)
    order = torch.argsort(scores, dim=1, descending=True, stable=True)
    places = torch.arange(scores.shape[1], device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter(1, order, places).masked_fill(~visual, -1)


def owners(n_visual: Sequence[int]) -> Tensor:
    """The sample of every visual token, in the tokens' order, int64[sum of n_visual] on the CPU."""
    return torch.arange(len(n_visual)).repeat_interleave(torch.tensor(n_visual, dtype=torch.int64))
