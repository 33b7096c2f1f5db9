"""The original in alternation with a policy or a reducer, so that drift hits both alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from opsearch.bench.passes import Pass, timed
from opsearch.policy import Policy
from opsearch.runtime.graphs import Graphs


@dataclass(frozen=True, eq=False)
class Workload:
    """A batch of prompts of equal shape: n_visual and n_other tokens each, nothing padded."""

    inputs: dict[str, Tensor]
    batch: int
    n_visual: int
    n_other: int


@dataclass(frozen=True)
class Pair:
    """A generation of the original and one under the policy, directly one after the other.

    policy: of a reducer where that is the other side.
    """

    original: Pass
    policy: Pass


@dataclass(frozen=True, eq=False)
class Side:
    """What one of the two runs: a block around the model, and the inputs inside of it."""

    block: Callable[[], AbstractContextManager[Any]]
    inputs: dict[str, Tensor]


def timed_pairs(
    model: Any,
    work: Workload,
    policy: Policy,
    new_tokens: int,
    repeats: int,
    warmups: int = 2,
    graphs: Graphs | None = None,
) -> Iterator[Pair]:
    """Yield every pair of the original and the policy on the same inputs, as `alternated` does.

    graphs: CUDA graphs that the policy's side replays, None launches its layers one by one.
    """
    pruned = Side(partial(policy.apply, model, graphs=graphs), work.inputs)
    return alternated(model, work.inputs, pruned, new_tokens, repeats, warmups)


@torch.inference_mode()
def alternated(
    model: Any,
    inputs: dict[str, Tensor],
    other: Side,
    new_tokens: int,
    repeats: int,
    warmups: int = 2,
) -> Iterator[Pair]:
    """Yield every pair as it is measured, after warm-ups; each pair swaps who comes first.

    inputs: the original's.
    """
    sides = Side(nullcontext, inputs), other
    for repeat in range(-warmups, repeats):
        order = (0, 1) if repeat % 2 == 0 else (1, 0)
        found = {}
        for side in order:
            with sides[side].block():
                found[side] = timed(model, sides[side].inputs, new_tokens)
        if repeat >= 0:
            yield Pair(found[0], found[1])
