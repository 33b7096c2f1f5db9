"""Selectors: what the choice of a policy reads of a request, before the decoder.

A selector turns each prompt of a batch into a vector of numbers; the choice is linear in it
(`opsearch.adaptive.linear`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from opsearch import registry
from opsearch.errors import PolicyError
from opsearch.rankers.base import PROMPT_NEEDS, Features, Prompt

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Question:
    """The mean direction of the embeddings of the text behind the last image."""

    needs = frozenset({"text_embeddings"})

    def features(self, prompt: Prompt) -> Tensor:
        """Return the features, float32[B, D], see `Features`."""
        return prompt.question_direction()


@dataclass(frozen=True)
class Image:
    """The mean direction of the visual tokens' embeddings."""

    needs = frozenset({"embeddings"})

    def features(self, prompt: Prompt) -> Tensor:
        """Return the features, float32[B, D], see `Features`."""
        from torch.nn.functional import normalize

        assert prompt.embeds is not None
        is_visual = prompt.visual[..., None]
        total = (normalize(prompt.embeds.float(), dim=-1) * is_visual).sum(1)
        return total / is_visual.sum(1).clamp(min=1)


@dataclass(frozen=True)
class QuestionAndImage:
    """Both mean directions, that of the question and that of the visual tokens."""

    needs = Question.needs | Image.needs

    def features(self, prompt: Prompt) -> Tensor:
        """Return the features, float32[B, 2 D], see `Features`."""
        import torch

        return torch.cat([Question().features(prompt), Image().features(prompt)], 1)


SELECTORS: Mapping[str, str] = {
    "question": "opsearch.adaptive.features:Question",
    "image": "opsearch.adaptive.features:Image",
    "both": "opsearch.adaptive.features:QuestionAndImage",
}


def make_features(text: str) -> Features:
    """Return the selector that is written as `question` or `mine(size=3)`.

    Raises:
        PolicyError: The text cannot be read, or the selector reads what is not there before the
            decoder.
        UnknownNameError: There is none of that name.
    """
    name, params = registry.split_spec("selectors", text)
    factory = registry.lookup("selectors", name)
    found: Features = registry.make("selectors", name, factory, **params)
    if others := found.needs - PROMPT_NEEDS:
        raise PolicyError(
            f"selector {name} reads {', '.join(sorted(others))}, and a policy is chosen by "
            f"embeddings alone: {', '.join(sorted(PROMPT_NEEDS))}"
        )
    return found
