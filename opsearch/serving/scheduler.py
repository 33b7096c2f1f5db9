"""Scheduling under a policy: requests whose keys other requests may not read."""

from __future__ import annotations

from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler

from opsearch.serving.identifiers import is_private
from opsearch.serving.kept_keys import KeptKeysManager
from opsearch.serving.served_policy import policy_of


class _Private:
    """Requests under a policy whose keys depend on more than the rows before them."""

    def add_request(self, request: Any) -> None:
        """Keep a request from reading blocks that it must not share."""
        if any(is_private(feature.identifier) for feature in request.mm_features):
            request.skip_reading_prefix_cache = True
        super().add_request(request)  # type: ignore[misc]


class PrunedScheduler(_Private, Scheduler):
    """vLLM's scheduler under a policy."""


class PrunedAsyncScheduler(_Private, AsyncScheduler):
    """vLLM's asynchronous scheduler under a policy."""


def make_scheduler(*args: Any, vllm_config: Any, **kwargs: Any) -> Scheduler:
    """Return the scheduler that vLLM's settings ask for; vLLM calls this as a class."""
    settings = vllm_config.scheduler_config
    chosen = PrunedAsyncScheduler if settings.async_scheduling else PrunedScheduler
    scheduler = chosen(*args, vllm_config=vllm_config, **kwargs)
    served = policy_of(vllm_config.model_config.hf_config)
    for manager in scheduler.kv_cache_manager.coordinator.single_type_managers:
        if served is not None and isinstance(manager, KeptKeysManager):
            manager.served, manager.requests = served, scheduler.requests
    return scheduler
