"""Layers of a prefill on tensors that stay in place, as a CUDA graph requires."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from opsearch.models.layers import DecoderLayer
from opsearch.models.pruned.cache import PrunedCache
from opsearch.models.pruned.layer import prefill
from opsearch.models.pruned.plan import Plan, PlanInputs
from opsearch.models.pruned.rows import Rows
from opsearch.rankers.base import Prompt


class PrefillInputs(NamedTuple):
    """Tensors from which the layers of a prefill are computed.

    Attributes:
        hidden: Inputs of the first layer, [B, S, D].
        cos: Cosines of the rotary embedding, [..., B or 1, S, hd].
        sin: Sines of the rotary embedding, [..., B or 1, S, hd].
        visual: Mask of the visual tokens, bool[B, S].
        rank: Rank of each visual token, int64[B, S], -1 elsewhere.
        mask: Attention mask [B or 1, 1, S, S], None for causal attention.
        added: Visual features that are added behind the first layers, [K, B, S, D]; None without
            any.
    """

    hidden: Tensor
    cos: Tensor
    sin: Tensor
    visual: Tensor
    rank: Tensor
    mask: Tensor | None
    added: Tensor | None


class PrefillOutputs(NamedTuple):
    """Results of the layers of a prefill.

    Attributes:
        hidden: Outputs of the last layer, [B, S, D].
        kv: Rows, keys and values that each layer stores.
    """

    hidden: Tensor
    kv: list[tuple[Rows, Tensor, Tensor]]


class StaticPrefill:
    """Layers of a prefill for prompts without padding and with equal numbers of tokens.

    Args:
        layers: Decoder layers.
        plan_inputs: Plan inputs of one of these prompts.
        inputs: Tensors of that prompt, for their shapes and dtypes.
        options: Further keyword arguments of the layers.
    """

    def __init__(
        self,
        layers: Sequence[DecoderLayer],
        plan_inputs: PlanInputs,
        inputs: PrefillInputs,
        options: Any,
    ) -> None:
        self.layers, self.options = layers, options
        self.counts, self.rerankings = plan_inputs.counts, plan_inputs.rerankings
        self.n_visual, self.n_other = plan_inputs.prompt.n_visual, plan_inputs.prompt.n_other
        with torch.inference_mode(False):  # inference tensors cannot be written outside of it
            static = [None if tensor is None else torch.empty_like(tensor) for tensor in inputs]
        self.inputs = PrefillInputs._make(static)

    def fill(self, inputs: PrefillInputs) -> None:
        """Copy the inputs of the next prompt."""
        for static, new in zip(self.inputs, inputs, strict=True):
            if static is not None and new is not None:
                static.copy_(new)

    def run(self) -> PrefillOutputs:
        """Compute the layers from the copied inputs."""
        hidden, cos, sin, visual, rank, mask, added = self.inputs
        prompt = Prompt(visual, torch.ones_like(visual), self.n_visual, embeds=hidden)
        prompt.n_other = self.n_other
        features = () if added is None else added.unbind()
        plan = Plan(PlanInputs(prompt, rank, self.counts, self.rerankings, features))
        cache = PrunedCache(len(self.layers), plan)
        kwargs = {**self.options, "past_key_values": cache, "position_embeddings": (cos, sin)}
        for index, layer in enumerate(self.layers):
            hidden = prefill(layer, index, plan, hidden, mask, kwargs)
        kv = []
        for planned, stored in zip(plan.planned, cache.pruned, strict=True):
            assert stored.keys is not None
            assert stored.values is not None
            kv.append((planned.kv, stored.keys, stored.values))
        return PrefillOutputs(hidden, kv)


def copy_to_cache(outputs: PrefillOutputs, cache: PrunedCache) -> Tensor:
    """Copy keys and values to a prompt's cache; return a copy of the hidden states."""
    kept = outputs.kv if cache.pruned[0].store else []
    written = [outputs.hidden, *(tensor for _, *pair in kept for tensor in pair)]
    copies = [torch.empty_like(tensor) for tensor in written]
    torch._foreach_copy_(copies, written)  # a few launches for all tensors
    indices = {id(rows): rows.index.clone() for rows, *_ in outputs.kv}
    for layer, (rows, *_) in zip(cache.pruned, outputs.kv, strict=True):
        layer.begin(Rows(indices[id(rows)], rows.sizes, rows.length))
    hidden, *pairs = copies
    for layer, keys, values in zip(cache.pruned, pairs[::2], pairs[1::2], strict=False):
        layer.update(keys, values)
    return hidden
