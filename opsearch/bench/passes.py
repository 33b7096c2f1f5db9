"""One timed generation: hooks take timestamps where its parts begin and end.

All times come from a single call of generate(), as users call it; nothing is computed twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from opsearch.bench.clock import Clock
from opsearch.models.families import family_for


@dataclass(frozen=True)
class Pass:
    """Times of the parts of one generation, in seconds.

    Attributes:
        first_token: The whole call up to the first token's logits.
        tower: The vision tower, None where it did not run.
        ranking: Ranking of the visual tokens and building of the index sets.
        prefill: Decoder and lm_head, including `ranking`.
        decode: Per token after the first, None without any.
        peak_bytes: Peak memory allocated on a CUDA device, None elsewhere.
    """

    first_token: float
    tower: float | None
    ranking: float
    prefill: float
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
        decode=clock.seconds(first, last) / (new_tokens - 1) if new_tokens > 1 else None,
        peak_bytes=torch.cuda.max_memory_allocated(clock.device) if clock.cuda else None,
    )


@contextmanager
def _timestamps(model: Any, clock: Clock) -> Iterator[dict[str, list[Any]]]:
    """Collect timestamps by name: one per token, and per call of the decoder or the vision tower.

    Within a policy's block, its ranking hook runs between the decoder's first hook and its last
    one.
    """
    family = family_for(model.config.model_type)
    tower = model.get_submodule(family.vision_tower)
    decoder = model.get_submodule(family.decoder)
    found: dict[str, list[Any]] = defaultdict(list)

    def note(name: str) -> Callable[..., None]:
        return lambda *_: found[name].append(clock.now())

    handles = (
        tower.register_forward_pre_hook(note("tower")),
        tower.register_forward_hook(note("tower_end")),
        decoder.register_forward_pre_hook(note("decoder"), prepend=True),
        decoder.register_forward_pre_hook(note("ranked")),
        model.lm_head.register_forward_hook(note("token")),
    )
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
