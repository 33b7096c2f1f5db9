"""Sweep: one pass over the layers that computes every node of a trie, for samples of one layout.

All nodes advance together, and only the current layer's states are held, with the rows of all nodes
concatenated, [B, R, D]. Visual rows and the text before them have G batch rows, one per image, and
all B samples that show an image read its rows. Visual rows are sorted by rank, so that the tokens a
policy keeps are a prefix. Rows keep their original positions for rotary embeddings and causal
masks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from opsearch.measure.entry import DecoderInputs
from opsearch.measure.looking import DecoderRanking
from opsearch.measure.states import States
from opsearch.measure.step import SweepLayer
from opsearch.measure.trie import Trie
from opsearch.runtime.places import device_of


def sweep(
    layers: Any, trie: Trie, inputs: DecoderInputs, on_layer: Callable[[int], None]
) -> Tensor:
    """Return the answer rows of all leaves before the final norm, [B, leaves, answers, D].

    Args:
        layers: The decoder's layers.
        trie: The trie of the policies.
        inputs: The decoder's inputs.
        on_layer: Called with the index of each finished layer.
    """
    kept = inputs.order[:, : int(trie.levels[0].incoming[0])]
    head, visual = (inputs.images.rows(positions) for positions in (inputs.head, kept))
    states = States(head, inputs.samples.rows(inputs.tail), visual, inputs.order[:, None])
    for number, (layer, level) in enumerate(zip(layers, trie.levels, strict=True)):
        device = device_of(layer.input_layernorm)
        inputs, states = inputs.to(device), states.to(device)
        ranking = DecoderRanking(layer, trie.rankers, inputs)
        if level.reranking:
            states = ranking.reranked(states, level.reranking)
        pending = ranking.orders(states, level.views, level.rows, level.order)
        sweep_layer = SweepLayer(layer, level, inputs, states.orders, level is trie.levels[-1])
        states = replace(sweep_layer.advance(states), pending=pending)
        on_layer(number)
    answers: Tensor = states.text.unflatten(1, (-1, inputs.layout.answers))
    return answers
