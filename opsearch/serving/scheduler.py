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
        """Keep a request from reading blocks that it must not share, and say its images' sizes.

        Its answer ends where that of the whole prompt would, at the model's last position.
        """
        if _is_private(self.served, request):
            request.skip_reading_prefix_cache = True
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
    coordinator = scheduler.kv_cache_manager.coordinator
    coordinator.cache_blocks = partial(_cache_blocks, coordinator.cache_blocks, served)
    for manager in coordinator.single_type_managers:
        if isinstance(manager, KeptKeysManager):
            manager.served, manager.requests = served, scheduler.requests
    return scheduler


def _cache_blocks(stock: Any, served: ServedPolicy, request: Any, num_tokens: int) -> None:
    """Let other requests read the blocks, of a private request those before its images."""
    if _is_private(served, request):
        num_tokens = min(num_tokens, request.mm_features[0].mm_position.offset)
    stock(request, num_tokens)


def _is_private(served: ServedPolicy, request: Any) -> bool:
    """Return whether other requests may not read a request's keys, nor it theirs."""
    return not served.shares_prefix(image_sizes(request))


def _dropped(request: Any) -> int:
    """Return how many visual tokens of a request the engine does not hold."""
    held = sum(image.n_visual for image in prompt_images(request.mm_features))
    return sum(image_sizes(request)) - held
