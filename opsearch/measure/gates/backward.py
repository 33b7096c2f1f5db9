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

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from opsearch.measure.sweep.original import Reference
from opsearch.measure.sweep.visibility import Visibility, sees
from opsearch.models.attention import CosSin
from opsearch.models.decoder import Decoder
from opsearch.models.layers import DecoderLayer
from opsearch.policy.counts import KV, MLP, Q


@dataclass(frozen=True, eq=False)
class Gated:
    """The decoder with gates, after its forward.

    Attributes:
        decoder: The decoder.
        reference: Its inputs.
        gates: [B, L, 3, S], 1 at text.
        cos_sin: Rotary embeddings of all positions, by kind of layer.
        states: Input of each layer and output of the last one, L + 1 tensors [B, S, D].
    """

    decoder: Decoder
    reference: Reference
    gates: Tensor
    cos_sin: Mapping[str, CosSin]
    states: list[Tensor]

    @classmethod
    @torch.no_grad()
    def forward(cls, decoder: Decoder, reference: Reference, gates: Tensor) -> Gated:
        """Run the decoder on the original's inputs.

        Args:
            decoder: The decoder.
            reference: Its inputs.
            gates: Gate of each token, [B, L, 3, S], above 0; 1 at text.
        """
        cos_sin = decoder.rotary(reference.embeds, reference.position_ids)
        gated = cls(decoder, reference, gates, cos_sin, [reference.embeds])
        for number in range(len(decoder.layers)):
            gated.states.append(gated._layer(number, gated.states[-1], gates[:, number]))
        return gated

    @torch.enable_grad()
    def gradients(self, loss: Callable[[Tensor], Tensor]) -> Tensor:
        """Return the gradient of a sum over samples of `loss` of their logits [B, k, V].

        Returns:
            Gradient with respect to the gates, float32[B, L, 3, S].
        """
        last = self.states[-1].detach().requires_grad_()
        logits = self.decoder.logits(last[:, -self.reference.logits.shape[1] :])
        (cotangent,) = torch.autograd.grad(loss(logits), last)
        found = []
        for number in reversed(range(len(self.decoder.layers))):
            state = self.states[number].detach().requires_grad_()
            gates = self.gates[:, number].detach().requires_grad_()
            output = self._layer(number, state, gates)
            cotangent = cotangent.to(output.device)
            cotangent, gradient = torch.autograd.grad(output, (state, gates), cotangent)
            found.append(gradient)
        return torch.stack(found[::-1], 1)

    def _layer(self, number: int, state: Tensor, gates: Tensor) -> Tensor:
        """Return the output [B, S, D] of a layer, and the visual features that are added to it."""
        layer, features = self.decoder.layers[number], self.reference.added
        visibility = self.reference.visibility.get(layer.kind)
        output = gated_layer(layer, state, gates, self.cos_sin[layer.kind], visibility)
        return output + features[number].to(output.device) if number < len(features) else output


def gated_layer(
    layer: DecoderLayer,
    state: Tensor,
    gates: Tensor,
    cos_sin: CosSin,
    visibility: Visibility | None = None,
) -> Tensor:
    """Return the output [B, S, D] of a decoder layer with gates float32[B, 3, S].

    Args:
        layer: The layer.
        state: Its input, [B, S, D].
        gates: The gates.
        cos_sin: Rotary embeddings of all positions.
        visibility: Positions that each token sees; None for causal attention.
    """
    device, attention = layer.device, layer.attention
    state, gates = state.to(device), gates.to(device)
    cos, sin = (each.to(device) for each in cos_sin)
    normed = layer.attention_input(state)
    queries = attention.queries(normed, (cos, sin))
    keys, values = attention.keys_values(normed, (cos, sin))
    mask = _mask(gates[:, KV].log(), state.dtype, visibility and visibility.to(device))
    update = layer.attention_update(attention.attend(queries, keys, values, mask))
    after = state + update * gates[:, Q, :, None].to(state.dtype)
    update = layer.mlp_update(state if layer.parallel else after)
    gated: Tensor = after + update * gates[:, MLP, :, None].to(state.dtype)
    return gated


def _mask(bias: Tensor, dtype: torch.dtype, visibility: Visibility | None) -> Tensor:
    """Return the attention mask with a bias [B, S] on each column, [B, 1, S, S]."""
    length = bias.shape[-1]
    positions = torch.arange(length, device=bias.device).expand(len(bias), -1)
    mask: Tensor = bias.to(dtype)[:, None, :].expand(-1, length, -1)
    hidden = ~sees(visibility, positions, positions)
    return mask.masked_fill(hidden, torch.finfo(dtype).min)[:, None]
