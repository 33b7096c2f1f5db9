"""One pass over the layers that computes every node of a trie, for samples of one layout.

All nodes advance together, and only those of the layer in hand are held: their rows lie one behind
the other, [B, R, D]. Of visual rows and the text before them there are G, one batch row for each
image, which all of the B samples that show it read. Visual rows stand in the order of their
ranking, so that what a policy keeps is a prefix. They take their original positions with them,
which give the rotary embeddings and, as nothing looks ahead, the masks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor

from opsearch.measure.entry import Entry
from opsearch.measure.looking import Looking
from opsearch.measure.states import States
from opsearch.measure.step import Step
from opsearch.measure.trie import Trie
from opsearch.runtime.places import device_of


def sweep(layers: Any, trie: Trie, entry: Entry, done: Callable[[int], None]) -> Tensor:
    """States of the answers' rows of all leaves, [B, leaves, answers, D], before the last norm.

    done: told the number of each layer when it is computed.
    """
    kept = entry.order[:, : int(trie.levels[0].coming[0])]
    head, visual = (entry.images.rows(places) for places in (entry.head, kept))
    states = States(head, entry.samples.rows(entry.tail), visual, entry.order[:, None])
    for number, (layer, level) in enumerate(zip(layers, trie.levels, strict=True)):
        device = device_of(layer.input_layernorm)
        entry, states = entry.to(device), states.to(device)
        looking = Looking(layer, trie.rankers, entry)
        if level.turning:
            states = looking.turned(states, level.turning)
        waiting = looking.orders(states, level.looks, level.rows, level.order)
        step = Step(layer, level, entry, states.orders, level is trie.levels[-1])
        states = replace(step.advance(states), waiting=waiting)
        done(number)
    answers: Tensor = states.text.unflatten(1, (-1, entry.layout.answers))
    return answers
