"""All layers of a pruned prefill as a function of tensors that stay where they are.

That is what a CUDA graph can hold: sizes are fixed, nothing waits for the device and nothing is
copied to it. Where visual tokens stand, how they rank, positions and all values may change.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from opsearch.rankers.prompt import Prompt
from opsearch.runtime.cache import PrunedCache
from opsearch.runtime.layer import prefill
from opsearch.runtime.plan import Order, Plan
from opsearch.runtime.rows import Rows


class Given(NamedTuple):
    """What the layers of a prefill are computed from.

    hidden: [B, S, D]; cos, sin: [..., B or 1, S, hd]; visual: bool[B, S]; rank: int64[B, S]; mask:
    [B or 1, 1, S, S], None where plain causal attention is right.
    """

    hidden: Tensor
    cos: Tensor
    sin: Tensor
    visual: Tensor
    rank: Tensor
    mask: Tensor | None


class Computed(NamedTuple):
    """hidden: [B, S, D] behind the last layer; kept: rows, keys and values of each layer."""

    hidden: Tensor
    kept: list[tuple[Rows, Tensor, Tensor]]


class Static:
    """The layers of prompts without padding, all with equally many visual and other tokens.

    order: of one of them; others: what else the model hands to its layers.
    """

    def __init__(self, layers: nn.ModuleList, order: Order, given: Given, others: Any) -> None:
        self.layers, self.counts, self.turns, self.others = layers, *order[2:], others
        self.n_visual, self.n_other = order.prompt.n_visual, order.prompt.n_other
        with torch.inference_mode(False):  # or nothing could be copied into them outside of it
            held = [None if tensor is None else torch.empty_like(tensor) for tensor in given]
        self.given = Given._make(held)

    def fill(self, given: Given) -> None:
        """Copy what the next prompt gives."""
        for held, new in zip(self.given, given, strict=True):
            if held is not None and new is not None:
                held.copy_(new)

    def run(self) -> Computed:
        """Compute the layers from what was copied."""
        hidden, cos, sin, visual, rank, mask = self.given
        prompt = Prompt(visual, torch.ones_like(visual), self.n_visual, embeds=hidden)
        prompt.n_other = self.n_other
        plan = Plan(Order(prompt, rank, self.counts, self.turns))
        cache = PrunedCache(len(self.layers), plan)
        kwargs = {**self.others, "past_key_values": cache, "position_embeddings": (cos, sin)}
        for index, layer in enumerate(self.layers):
            hidden = prefill(layer, index, plan, hidden, mask, kwargs)
        kept = []
        for step, stored in zip(plan.steps, cache.pruned, strict=True):
            assert stored.keys is not None
            assert stored.values is not None
            kept.append((step.kv, stored.keys, stored.values))
        return Computed(hidden, kept)


def hand_out(computed: Computed, cache: PrunedCache) -> Tensor:
    """Fill a prompt's cache and return the hidden states, all in memory of their own."""
    kept = computed.kept if cache.pruned[0].store else []
    written = [computed.hidden, *(tensor for _, *pair in kept for tensor in pair)]
    copies = [torch.empty_like(tensor) for tensor in written]
    torch._foreach_copy_(copies, written)  # a few launches for all of them
    own = {id(rows): rows.index.clone() for rows, *_ in computed.kept}
    for layer, (rows, *_) in zip(cache.pruned, computed.kept, strict=True):
        layer.begin(Rows(own[id(rows)], rows.sizes, rows.length))
    hidden, *pairs = copies
    for layer, keys, values in zip(cache.pruned, pairs[::2], pairs[1::2], strict=False):
        layer.update(keys, values)
    return hidden
