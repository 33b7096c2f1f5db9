"""A policy as it is served: its counts by prompt, and the ranking of a prompt's visual tokens."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from opsearch.errors import PolicyError, shortened
from opsearch.policy.counts import KV, Q
from opsearch.policy.policy import Policy
from opsearch.rankers.base import TEXT_NEEDS, Prompt
from opsearch.rankers.of_policy import decoder_needs, policy_ranker

# In the config of a model, by `--hf-overrides`.
KEY = "opsearch_policy"
CHECKS_KEY = "opsearch_selfcheck"


class ServedPolicy:
    """A policy resolved for the prompts of a server.

    Attributes:
        policy: The policy.
        ranker: Its ranker before the decoder, None if it needs none.
        needs: Inputs of the ranker.
        reads_text: Whether the ranker reads text of the prompt.

    Raises:
        PolicyError: The policy cannot be served.
    """

    def __init__(self, policy: Policy) -> None:
        if decoder_needs(policy):
            raise PolicyError(
                f"policy {shortened(policy.name)} ranks visual tokens inside the decoder by the "
                "attention of the last row, which a prefill in chunks does not have; serve one "
                "whose ranker acts before the decoder, e.g. divprune"
            )
        if policy.images is not None:
            raise PolicyError(
                f"the policy was searched with images of {policy.images}, and vLLM makes all of "
                "them; serve a policy that was searched without --images"
            )
        self.policy = policy
        self.ranker = policy_ranker(policy)
        self.needs = self.ranker.needs if self.ranker else frozenset[str]()
        self.reads_text = bool(self.needs & TEXT_NEEDS)
        self.counts = cache(self._counts)

    def _counts(self, n_visual: int) -> Tensor:
        """Return the executed counts of a prompt with N visual tokens, int64[L, 3]."""
        if not n_visual:
            return torch.zeros((self.policy.num_layers, 3), dtype=torch.long)
        return torch.from_numpy(self.policy.executed(n_visual))

    def entering(self, n_visual: int) -> int:
        """Return how many of N visual tokens any layer processes, at least 1."""
        return max(int(self.counts(n_visual).max()), 1)

    def shares_prefix(self, images: Sequence[int]) -> bool:
        """Return whether the keys of a prompt's rows depend on the rows before them alone.

        They do not where a layer stores kept keys compacted, and where the ranking depends on
        later images or text.

        Args:
            images: Number of visual tokens of each image of the prompt.
        """
        n_visual = sum(images)
        keys = self.counts(n_visual)[:, KV]
        ranked_alone = self.ranker is None or (len(images) < 2 and not self.reads_text)
        stay = bool((keys == self.entering(n_visual)).all())
        return not n_visual or (stay and ranked_alone)

    def needs_text_first(self, n_visual: int) -> bool:
        """Return whether a prompt that began with an image would leave a query without any key."""
        counts = self.counts(n_visual)
        return bool((counts[:, Q] > counts[:, KV]).any())

    def rank(self, embeds: Tensor, visual: Tensor, captured: dict[str, Tensor]) -> Tensor:
        """Return the rank of each visual token of a prompt, int64[N].

        Args:
            embeds: Embeddings of the whole prompt, [S, D].
            visual: Mask of its visual tokens, bool[S].
            captured: Inputs from the vision tower, one row per visual token.
        """
        n_visual = int(visual.sum())
        assert self.ranker is not None, "there is nothing to rank by"
        real = torch.ones_like(visual)
        prompt = Prompt(visual[None], real[None], (n_visual,), captured, embeds[None])
        kept = self.policy.schedule(n_visual).kept
        rank = self.ranker.rank(prompt, [max(kept, default=0)])
        return rank[0][visual].cpu()


def policy_of(hf_config: Any) -> ServedPolicy | None:
    """Return the policy that a model's config names, or None; it is read once per process.

    Raises:
        PolicyError: It cannot be read or served.
    """
    folder = getattr(hf_config, KEY, None)
    return None if folder is None else _read(str(folder))


def n_positions(hf_config: Any) -> int:
    """Return the number of rotary positions of a model, dropped tokens included."""
    return int(hf_config.get_text_config().max_position_embeddings)


@cache
def _read(folder: str) -> ServedPolicy:
    return ServedPolicy(Policy.from_pretrained(Path(folder)))
