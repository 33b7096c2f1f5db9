"""The original and a policy in alternation on the same inputs, so that drift hits both alike."""

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
    """A generation of the original and one under the policy, directly one after the other."""

    original: Pass
    policy: Pass


@torch.inference_mode()
def timed_pairs(
    model: Any,
    work: Workload,
    policy: Policy,
    new_tokens: int,
    repeats: int,
    warmups: int = 2,
    graphs: Graphs | None = None,
) -> Iterator[Pair]:
    """Yield every pair as it is measured, after warm-ups; each pair swaps who comes first.

    graphs: CUDA graphs that the policy's side replays, None launches its layers one by one.
    """
    sides: list[Callable[[], AbstractContextManager[Any]]] = [
        nullcontext,
        partial(policy.apply, model, graphs=graphs),
    ]
    for repeat in range(-warmups, repeats):
        order = (0, 1) if repeat % 2 == 0 else (1, 0)
        found = {}
        for side in order:
            with sides[side]():
                found[side] = timed(model, work.inputs, new_tokens)
        if repeat >= 0:
            yield Pair(found[0], found[1])
