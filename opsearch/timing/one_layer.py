"""Decoder layers of random weights whose parts can be timed alone."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from opsearch.models.layers import DecoderLayer, structures
from opsearch.models.loading import DTYPES
from opsearch.models.pruned.cache import PrunedCache
from opsearch.models.pruned.execution import Execution, ResolvedPolicy
from opsearch.models.pruned.layer import pruned_forward
from opsearch.models.pruned.plan import Plan, PlanInputs
from opsearch.models.pruned.ranking import plan_inputs
from opsearch.models.spec import ModelSpec
from opsearch.policy.builders import depth
from opsearch.policy.ranker import RankerSpec
from opsearch.rankers.base import Prompt
from opsearch.rankers.of_policy import policy_ranker

_LAYERS, _MIDDLE = 3, 1
_KEPT = Fraction(1, 10)

Part = Callable[[], None]
"""A part of a prefill; a call runs it once."""


class OneLayer:
    """Parts of a prefill of one prompt with n_visual tokens amid n_other ones, at batch size 1.

    Args:
        config: Config of the model.
        n_visual: Visual tokens of the prompt.
        n_other: Other tokens of the prompt.
        model: The dtype, device and attention implementation of the layers.
    """

    def __init__(self, config: Any, n_visual: int, n_other: int, model: ModelSpec) -> None:
        dtype, device = DTYPES[model.dtype], model.device
        self.decoder, self.head = _random_layers(config, dtype, device, model.attention)
        length = n_visual + n_other
        visual = torch.zeros(1, length, dtype=torch.bool, device=device)
        visual[:, n_other // 2 : n_other // 2 + n_visual] = True
        self.prompt = Prompt(visual, torch.ones_like(visual), (n_visual,))
        self.embeddings = torch.randn(1, length, self.head.in_features, device=device).to(dtype)
        self.rank = torch.where(visual, visual.cumsum(1) - 1, -1)
        self.middle = self.decoder.layers[_MIDDLE]
        self.given = self._given()
        layers = self.decoder.layers
        for index, (layer, structure) in enumerate(
            zip(layers, structures(self.decoder), strict=True)
        ):
            layer.forward = pruned_forward(DecoderLayer(layer, structure), index, layer.forward)

    def layer(self, q: int, kv: int, mlp: int) -> Part:
        """Return a layer in the middle of a pruned prefill, by its numbers of visual tokens."""
        counts = np.array([[[q, kv, mlp]] * _LAYERS], np.int64)
        plan = Plan(PlanInputs(self.prompt, self.rank, counts, {}))
        stream = self.embeddings[:, plan.arriving(0).index[0]]
        mask, others = self.given

        def run() -> None:
            cache = PrunedCache(_LAYERS, plan)
            self.middle.forward(stream, mask, **others, past_key_values=cache)

        return run

    def prefill(self) -> tuple[Part, list[tuple[int, int, int]]]:
        """Return a prefill of three layers under a typical searched policy, and its counts."""
        policy = depth(_LAYERS, 1, 2, 1, _KEPT, RankerSpec("random"))
        execution = Execution(ResolvedPolicy(policy), policy_ranker(policy))
        counts = policy.executed(self.prompt.n_visual[0])

        def run() -> None:
            plan = Plan(plan_inputs(self.prompt, [execution]))
            cache = PrunedCache(_LAYERS, plan)
            mask = self.prompt.real.long()
            hidden = self.decoder(
                inputs_embeds=self.embeddings, attention_mask=mask, past_key_values=cache
            ).last_hidden_state
            self.head(hidden[:, -1:])

        return run, [(int(q), int(kv), int(mlp)) for q, kv, mlp in counts]

    def _given(self) -> tuple[Tensor | None, dict[str, Any]]:
        """Return the attention mask and further arguments that the decoder passes to its layers."""
        found: list[tuple[Tensor | None, dict[str, Any]]] = []

        def keep(hidden: Tensor, attention_mask: Tensor | None, **others: Any) -> Tensor:
            others.pop("past_key_values")  # a part passes its own
            found.append((attention_mask, others))
            return hidden

        for layer in self.decoder.layers:
            layer.forward = keep
        self.decoder(inputs_embeds=self.embeddings, attention_mask=self.prompt.real.long())
        for layer in self.decoder.layers:
            del layer.forward
        return found[_MIDDLE]


def _random_layers(
    config: Any, dtype: torch.dtype, device: str, attention: str
) -> tuple[Any, nn.Linear]:
    """Return three decoder layers of the config, and its lm_head."""
    from transformers import AutoModel

    text = deepcopy(config.get_text_config())
    vocabulary = text.vocab_size
    shrink_text(text, _LAYERS)
    with torch.device(device):
        decoder = AutoModel.from_config(text, dtype=dtype, attn_implementation=attention)
        head = nn.Linear(text.hidden_size, vocabulary, bias=False, dtype=dtype)
    return decoder.eval(), head


def shrink_text(text: Any, layers: int) -> None:
    """Leave the config of a decoder some layers of its first kind, and no embeddings of tokens."""
    text.vocab_size, text.pad_token_id, text.num_hidden_layers = 1, None, layers
    if getattr(text, "layer_types", None):
        text.layer_types = text.layer_types[:1] * layers
