"""Scheduling under a policy."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from vllm.multimodal.inputs import PlaceholderRange
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from opsearch.serving.identifiers import image_sizes, n_visual_of
from opsearch.serving.kept_keys import KeptKeysManager
from opsearch.serving.served_policy import ServedPolicy, n_positions, policy_of
from opsearch.serving.shrink import prompt_images


@dataclass(frozen=True, eq=False)
class _EncodedWhole(PlaceholderRange):
    """Rows of an image, which is encoded and cached whole however few of them a prompt holds.

    Attributes:
        n_visual: Number of visual tokens before any was dropped.
    """

    n_visual: int = 0

    @classmethod
    def of(cls, feature: Any) -> _EncodedWhole:
        """Return the rows of one of vLLM's features."""
        place = feature.mm_position
        return cls(place.offset, place.length, place.is_embed, n_visual_of(feature.identifier))

    def get_num_embeds(self) -> int:
        """Return the number of rows of the encoder's output."""
        return self.n_visual


class _Pruned:
    """What a scheduler must know of requests under a policy.

    Attributes:
        served: The policy.
        positions: Number of the model's positions, which dropped tokens take, too.
    """

    served: ServedPolicy
    positions: int

    def add_request(self, request: Any) -> None:
        """Take a request, say its images' sizes, and end its answer at the model's last position.

        That is where the answer to the whole prompt would end.
        """
        left = self.positions - request.num_prompt_tokens - _dropped(request)
        request.max_tokens = min(request.max_tokens, left)
        for feature in request.mm_features:
            feature.mm_position = _EncodedWhole.of(feature)
        super().add_request(request)  # type: ignore[misc]


class PrunedScheduler(_Pruned, Scheduler):
    """vLLM's scheduler under a policy."""


class PrunedAsyncScheduler(_Pruned, AsyncScheduler):
    """vLLM's asynchronous scheduler under a policy."""


def make_scheduler(*args: Any, vllm_config: Any, **kwargs: Any) -> Scheduler:
    """Return the scheduler that vLLM's settings ask for; vLLM calls this as a class."""
    settings = vllm_config.scheduler_config
    chosen = PrunedAsyncScheduler if settings.async_scheduling else PrunedScheduler
    scheduler = chosen(*args, vllm_config=vllm_config, **kwargs)
    served = policy_of(vllm_config.model_config.hf_config)
    assert served is not None, "the scheduler is chosen where a policy is served"
    scheduler.served = served
    scheduler.positions = n_positions(vllm_config.model_config.hf_config)
    cache = scheduler.kv_cache_manager
    cache.get_computed_blocks = partial(_computed_blocks, cache.get_computed_blocks, served, cache)
    coordinator = cache.coordinator
    coordinator.cache_blocks = partial(_cache_blocks, coordinator.cache_blocks, served)
    for manager in coordinator.single_type_managers:
        if isinstance(manager, KeptKeysManager):
            manager.served, manager.requests = served, scheduler.requests
    return scheduler


def _cache_blocks(stock: Any, served: ServedPolicy, request: Any, num_tokens: int) -> None:
    """Let other requests read the blocks, of a private request those before its images."""
    stock(request, min(num_tokens, _shared(served, request)))


def _computed_blocks(
    stock: Any, served: ServedPolicy, cache: Any, request: Any
) -> tuple[Any, int, int]:
    """Return the blocks of others that a request reads, their rows, and vLLM's boundary."""
    blocks, rows, boundary = stock(request)
    shared = _shared(served, request)
    if rows <= shared:
        return blocks, rows, boundary
    kept = shared - shared % max(each.block_size for each in cache.coordinator.single_type_managers)
    return cache.truncate_computed_blocks(blocks, kept), kept, 0


def _shared(served: ServedPolicy, request: Any) -> int:
    """Return the number of rows whose keys requests may read of each other.

    Those before the images where what is kept of these depends on what follows.
    """
    if served.shares_prefix(image_sizes(request)):
        return int(request.num_tokens)
    return int(request.mm_features[0].mm_position.offset)


def _dropped(request: Any) -> int:
    """Return how many visual tokens of a request the engine does not hold."""
    held = sum(image.n_visual for image in prompt_images(request.mm_features))
    return sum(image_sizes(request)) - held
