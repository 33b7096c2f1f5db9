"""One timed generation: hooks take timestamps where its parts begin and end.

All times come from a single call of generate(), as users call it; nothing is computed twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from opsearch.models.pruned.cuda_graphs import Graphs
from opsearch.models.supported import check_supported
from opsearch.policy.policy import Policy
from opsearch.timing.clock import Clock


@dataclass(frozen=True)
class Pass:
    """Times of the parts of one generation, in seconds.

    Attributes:
        first_token: The whole call up to the first token's logits.
        tower: The vision tower, None where it did not run.
        ranking: Ranking of the visual tokens and building of the index sets, and of the decoder's
            masks.
        prefill: Decoder and lm_head, including `ranking`.
        from_images: From the call of the vision tower to the first token's logits, None where it
            did not run.
        decode: Per token after the first, None without any.
        peak_bytes: Peak memory allocated on a CUDA device, None elsewhere.
    """

    first_token: float
    tower: float | None
    ranking: float
    prefill: float
    from_images: float | None
    decode: float | None
    peak_bytes: int | None


def timed(model: Any, inputs: Mapping[str, Tensor], new_tokens: int) -> Pass:
    """Generate exactly `new_tokens` greedily and return the times."""
    clock = Clock(model.device)
    if clock.cuda:
        torch.cuda.reset_peak_memory_stats(clock.device)
    clock.wait()
    with _timestamps(model, clock) as at:
        start = clock.now()
        model.generate(
            **inputs, do_sample=False, min_new_tokens=new_tokens, max_new_tokens=new_tokens
        )
    clock.wait()
    first, last = at["token"][0], at["token"][-1]
    tower = clock.seconds(at["tower"][0], at["tower_end"][0]) if at["tower"] else None
    return Pass(
        first_token=clock.seconds(start, first),
        tower=tower,
        ranking=clock.seconds(at["decoder"][0], at["ranked"][0]),
        prefill=clock.seconds(at["decoder"][0], first),
        from_images=clock.seconds(at["tower"][0], first) if at["tower"] else None,
        decode=clock.seconds(first, last) / (new_tokens - 1) if new_tokens > 1 else None,
        peak_bytes=torch.cuda.max_memory_allocated(clock.device) if clock.cuda else None,
    )


@contextmanager
def _timestamps(model: Any, clock: Clock) -> Iterator[dict[str, list[Any]]]:
    """Collect timestamps by name: one per token, and per call of the decoder or the vision tower.

    A policy ranks between the call of the decoder and its own forward, which soon computes the
    rotary embeddings. Hooks on layers would be refused with CUDA graphs.
    """
    family = check_supported(model)
    tower = model.get_submodule(family.vision_tower)
    decoder = model.get_submodule(family.decoder)
    found: dict[str, list[Any]] = defaultdict(list)

    def note(name: str) -> Callable[..., None]:
        return lambda *_: found[name].append(clock.now())

    handles = (
        tower.register_forward_pre_hook(note("tower")),
        tower.register_forward_hook(note("tower_end")),
        decoder.register_forward_pre_hook(note("decoder"), prepend=True),
        decoder.rotary_emb.register_forward_pre_hook(note("ranked")),
        model.lm_head.register_forward_hook(note("token")),
    )
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


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
class GenerationPair:
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
) -> Iterator[GenerationPair]:
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
) -> Iterator[GenerationPair]:
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
            yield GenerationPair(found[0], found[1])
