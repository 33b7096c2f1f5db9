"""Gradients of the answer's logits with respect to gates, layer by layer.

A gate g multiplies one operation of one visual token: 1 computes it, 0 prunes it, as a policy does.

- q: the attention output of the token's row is multiplied by g before it is added to the state.
- kv: log g is added to the attention logits of the token's column, for all rows and heads. The
  softmax is taken over what is left, so g = 0 is a column that no row reads.
- mlp: the output of the token's MLP is multiplied by g before it is added.

Only the inputs of the layers are kept from the forward. The backward computes each layer once more
and frees it, so that the memory is that of one layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from opsearch.measure.sweep.original import Reference
from opsearch.models.attention import attend, project_keys_values, project_queries
from opsearch.models.devices import device_of
from opsearch.policy.counts import KV, MLP, Q

CosSin = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Gated:
    """The decoder with gates, after its forward.

    Attributes:
        model: The model.
        decoder: Its decoder.
        gates: [B, L, 3, S], 1 at text.
        cos_sin: Rotary embeddings of all positions.
        states: Input of each layer and output of the last one, L + 1 tensors [B, S, D].
        answers: Last rows, whose logits are compared.
    """

    model: Any
    decoder: Any
    gates: Tensor
    cos_sin: CosSin
    states: list[Tensor]
    answers: int

    @classmethod
    @torch.no_grad()
    def forward(cls, model: Any, decoder: Any, reference: Reference, gates: Tensor) -> Gated:
        """Run the decoder on the original's inputs.

        Args:
            model: The model.
            decoder: Its decoder.
            reference: Its inputs.
            gates: Gate of each token, [B, L, 3, S], above 0; 1 at text.
        """
        cos_sin = decoder.rotary_emb(reference.embeds, reference.position_ids)
        states = [reference.embeds]
        for number, layer in enumerate(decoder.layers):
            states.append(gated_layer(layer, states[-1], gates[:, number], cos_sin))
        return cls(
            model=model,
            decoder=decoder,
            gates=gates,
            cos_sin=cos_sin,
            states=states,
            answers=reference.logits.shape[1],
        )

    @torch.enable_grad()
    def gradients(self, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the gradient of a sum over samples of `loss` of their logits [B, k, V].

        Returns:
            Gradient with respect to the gates, float32[B, L, 3, S].
        """
        last = self.states[-1].detach().requires_grad_()
        answers = self.decoder.norm(last[:, -self.answers :])
        logits = self.model.get_output_embeddings()(answers)
        (cotangent,) = torch.autograd.grad(loss(logits), last)
        found = []
        for number in reversed(range(len(self.decoder.layers))):
            layer = self.decoder.layers[number]
            state = self.states[number].detach().requires_grad_()
            gates = self.gates[:, number].detach().requires_grad_()
            output = gated_layer(layer, state, gates, self.cos_sin)
            cotangent = cotangent.to(output.device)
            cotangent, gradient = torch.autograd.grad(output, (state, gates), cotangent)
            found.append(gradient)
        return torch.stack(found[::-1], 1)


def gated_layer(layer: Any, state: Tensor, gates: Tensor, cos_sin: CosSin) -> Tensor:
    """Return the output [B, S, D] of a decoder layer with gates float32[B, 3, S]."""
    device, attn = device_of(layer.input_layernorm), layer.self_attn
    state, gates = state.to(device), gates.to(device)
    cos, sin = (each.to(device) for each in cos_sin)
    normed = layer.input_layernorm(state)
    queries = project_queries(attn, normed, (cos, sin))
    keys, values = project_keys_values(attn, normed, (cos, sin))
    mask = _causal(gates[:, KV].log(), state.dtype)
    update = attend(attn, queries, keys, values, mask)
    state = state + update * gates[:, Q, :, None].to(state.dtype)
    update = layer.mlp(layer.post_attention_layernorm(state))
    gated: Tensor = state + update * gates[:, MLP, :, None].to(state.dtype)
    return gated


def _causal(bias: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the causal mask with a bias [B, S] on each column, [B, 1, S, S]."""
    length = bias.shape[-1]
    hidden = torch.ones(length, length, dtype=torch.bool, device=bias.device).triu(1)
    mask: Tensor = bias.to(dtype)[:, None, None, :].expand(-1, 1, length, -1)
    return mask.masked_fill(hidden, torch.finfo(dtype).min)
