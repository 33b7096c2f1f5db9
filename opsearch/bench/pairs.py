"""The original in alternation with a policy or a reducer, so that drift affects both alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from opsearch.bench.passes import Pass, timed
from opsearch.models.pruned.cuda_graphs import Graphs
from opsearch.policy.policy import Policy


@dataclass(frozen=True, eq=False)
class Workload:
    """A batch of prompts of equal shape without padding.

    Attributes:
        inputs: Inputs of the model.
        batch: Number of prompts.
        n_visual: Visual tokens of each prompt.
        n_other: Other tokens of each prompt.
    """

    inputs: dict[str, Tensor]
    batch: int
    n_visual: int
    n_other: int


@dataclass(frozen=True)
class Pair:
    """Two consecutive generations.

    Attributes:
        original: The original's.
        policy: The policy's or the reducer's.
    """

    original: Pass
    policy: Pass


@dataclass(frozen=True, eq=False)
class Side:
    """One side of the alternation.

    Attributes:
        block: Context manager around its generations.
        inputs: Inputs of the model.
    """

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
    """Yield pairs of the original and the policy on the same inputs, see `alternated`.

    Args:
        model: The model.
        work: The inputs.
        policy: The policy.
        new_tokens: Tokens to generate.
        repeats: Pairs to measure.
        warmups: Pairs before these.
        graphs: CUDA graphs for the policy to replay; None to launch its layers one by one.
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
    """Yield every pair as it is measured, after warm-ups; the order alternates from pair to pair.

    Args:
        model: The model.
        inputs: The original's inputs.
        other: The other side.
        new_tokens: Tokens to generate.
        repeats: Pairs to measure.
        warmups: Pairs before these.
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
