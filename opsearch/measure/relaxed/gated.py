"""A decoder whose operations on visual tokens have gates between 0 and 1.

A gate g multiplies one operation of one visual token: 1 computes it and 0 prunes it, as a policy
does.

- q: the attention output of the token's row is multiplied by g before it is added to the state.
- kv: log g is added to the attention logits of the token's column, for all rows and heads.
- mlp: the output of the token's MLP is multiplied by g before it is added.

Gates fall along the ranking, so the rows of an operation with gates above 0 are a prefix of it, and
only these rows are computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from opsearch.measure.layout import Ints
from opsearch.measure.sweep.inputs import DecoderInputs, Pair
from opsearch.measure.sweep.visibility import sees
from opsearch.models.layers import DecoderLayer
from opsearch.policy.counts import KV, MLP, Q


class GatedDecoder:
    """The decoder of a model on a batch of samples, with gates.

    Args:
        layers: The decoder's layers.
        inputs: Its inputs.
        gates: Gates along the ranking, [L, 3, N], on the device of the inputs.
        open_rows: Number of gates above 0 of each operation, int64[L, 3].
    """

    def __init__(
        self, layers: Sequence[DecoderLayer], inputs: DecoderInputs, gates: Tensor, open_rows: Ints
    ) -> None:
        self.layers, self.inputs, self.gates = layers, inputs, gates
        image = torch.as_tensor(inputs.image_of, device=inputs.tail.device)
        self.text_positions = torch.cat([inputs.head[image], inputs.tail], 1)
        self.visual_positions = inputs.order[image]
        self.rows = _used(open_rows)

    def answers(self) -> Tensor:
        """Return the states of the answer rows after the last layer, [B, A, D]."""
        samples = self.inputs.samples
        text = samples.rows(self.text_positions)
        visual = samples.rows(self.visual_positions)
        for number in range(len(self.layers)):
            text, visual = self._layer(number, text, visual)
        rows = self.inputs.answer_rows.to(text.device) + self.inputs.head.shape[1]
        return text.gather(1, rows[..., None].expand(-1, -1, text.shape[-1]))

    def _layer(self, number: int, text: Tensor, visual: Tensor) -> Pair:
        """Return text and visual rows after a layer, less the visual ones that nothing reads."""
        layer, queries, through = self.layers[number], *self.rows[number, [Q, MLP]]
        self._move(layer.device)
        text, visual = text.to(layer.device), visual.to(layer.device)
        read, n_text = max(self.rows[number:, KV].max(), 1), text.shape[1]
        visual = visual[:, :read]
        before = torch.cat([text, visual[:, :through]], 1)
        normed = layer.attention_input(torch.cat([text, visual], 1))
        update = layer.attention_update(self._attention(layer, number, normed, n_text))
        text = text + update[:, :n_text]
        added = self._gated(update[:, n_text:], number, Q)
        visual = torch.cat([visual[:, :queries] + added, visual[:, queries:]], 1)
        after = torch.cat([text, visual[:, :through]], 1)
        update = layer.mlp_update(before if layer.parallel else after)
        added = self._gated(update[:, n_text:], number, MLP)
        visual = torch.cat([visual[:, :through] + added, visual[:, through:]], 1)
        positions = self.visual_positions[:, :read]
        visual = self.inputs.samples.with_features(number, visual, positions)
        return text + update[:, :n_text], visual

    def _move(self, device: torch.device) -> None:
        """Move what all layers read to the device of the next one."""
        if device != self.gates.device:
            self.inputs, self.gates = self.inputs.to(device), self.gates.to(device)
            self.text_positions = self.text_positions.to(device)
            self.visual_positions = self.visual_positions.to(device)

    def _gated(self, update: Tensor, number: int, module: int) -> Tensor:
        """Multiply an update of visual rows [B, R, D] by their gates."""
        gate = self.gates[number, module, : update.shape[1], None]
        return update * gate.to(update.dtype)

    def _attention(self, layer: DecoderLayer, number: int, normed: Tensor, n_text: int) -> Tensor:
        """Return the attention output of all text rows and the visual rows with open queries."""
        queries, keys, _ = self.rows[number]
        q_positions = self._positions(int(queries))
        k_positions = self._positions(int(keys))
        samples, attention = self.inputs.samples, layer.attention
        q_cos_sin = samples.rotary(layer.kind, q_positions)
        k_cos_sin = samples.rotary(layer.kind, k_positions)
        q = attention.queries(normed[:, : n_text + queries], q_cos_sin)
        k, v = attention.keys_values(normed[:, : n_text + keys], k_cos_sin)
        gates = self.gates[number, KV, :keys].clamp(min=torch.finfo(torch.float32).tiny)
        bias = torch.cat([gates.new_zeros(n_text), gates.log()]).to(q.dtype)
        visibility = samples.visibility.get(layer.kind)
        hidden = ~sees(visibility, q_positions, k_positions)
        mask = bias.expand(hidden.shape).masked_fill(hidden, torch.finfo(q.dtype).min)
        # On a CPU, SDPA has no kernel for masks with gradients, and eager attention is faster.
        name = "eager" if q.device.type == "cpu" else None
        update = attention.attend(q, k, v, mask[:, None], name)
        # A row before all text, or whose window holds none, may see no key.
        if visibility or not self.inputs.head.shape[1]:
            update = update.masked_fill(hidden.all(-1, keepdim=True), 0)
        return update

    def _positions(self, visual: int) -> Tensor:
        """Return the positions of all text rows and the first visual ones, int64[B, R]."""
        return torch.cat([self.text_positions, self.visual_positions[:, :visual]], 1)


def _used(open_rows: Ints) -> Ints:
    """Return the open rows of each operation, less those whose states no later layer reads."""
    later = np.zeros(1, np.int64)
    rows = open_rows.copy()
    for number in reversed(range(len(rows))):
        rows[number, [Q, MLP]] = np.minimum(rows[number, [Q, MLP]], later)
        later = np.maximum(later, rows[number, KV])
    return rows
