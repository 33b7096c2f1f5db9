"""What a step means to the V1 model runner: its requests, and the embeddings of their images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from vllm.multimodal.utils import get_mm_features_in_window, group_and_batch_mm_kwargs
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from opsearch.serving.attention_groups import StepAttention, layer_caches
from opsearch.serving.identifiers import n_visual_of
from opsearch.serving.prompt_rows import PromptRows, PromptShape
from opsearch.serving.self_check import check_served
from opsearch.serving.shrink import prompt_images, visual_rows
from opsearch.serving.step import Scheduled, Step

_stock_gather = GPUModelRunner._gather_mm_embeddings
_stock_initialize = GPUModelRunner.initialize_kv_cache


def watch_runner() -> None:
    """Let models under a policy know the requests of each step.

    The V1 runner has no hook for this; where its model has no policy, nothing changes.
    """
    GPUModelRunner._gather_mm_embeddings = _gather
    GPUModelRunner.initialize_kv_cache = _initialize_kv_cache


def _initialize_kv_cache(
    runner: Any, config: Any, is_profiling: bool = False, **kwargs: Any
) -> None:
    """Make the caches as vLLM does, and check the policy before the first request."""
    _stock_initialize(runner, config, is_profiling, **kwargs)
    serving = getattr(runner.get_model(), "serving", None)
    if serving is not None and not is_profiling:
        check_served(runner, serving)


def _gather(runner: Any, scheduled: Any, shift_computed_tokens: int = 0) -> Any:
    """Return the embeddings of the step's visual rows, and a mask of these, as vLLM's own does."""
    serving = getattr(runner.get_model(), "serving", None)
    if serving is None:
        return _stock_gather(runner, scheduled, shift_computed_tokens)
    parts, embeds, masks = [], [], []
    for name in runner.input_batch.req_ids:
        state = runner.requests[name]
        rows = scheduled.num_scheduled_tokens[name]
        part = Scheduled(_prompt_rows(runner, serving, state), state.num_computed_tokens, rows)
        place = part.of_prompt(part.prompt.place)
        embeds += [serving.tower.split(rows)[0] for rows in _embeddings(runner, state, part)]
        masks.append(torch.cat([place >= 0, torch.zeros(rows - len(place), dtype=torch.bool)]))
        parts.append(part)
    caches = layer_caches(runner, serving.attention_names)
    serving.step = StepAttention(Step(parts), caches, runner.device)
    return embeds, torch.cat(masks)


def _embeddings(runner: Any, state: Any, part: Scheduled) -> list[Tensor]:
    """Return the embeddings of a request's visual rows in a step, one tensor per image."""
    found = []
    end = part.computed + part.rows
    lo, hi = get_mm_features_in_window(state.mm_features, start=part.computed, end=end)
    before = sum(n_visual_of(each.identifier) for each in state.mm_features[:lo])
    for feature in state.mm_features[lo:hi]:
        span = slice(
            max(feature.mm_position.offset, part.computed),
            min(feature.mm_position.offset + feature.mm_position.length, end),
        )
        place = part.prompt.place[span]
        place = place[place >= 0]
        if len(place):
            features = runner.encoder_cache[feature.identifier]
            found.append(features[(place - before).to(features.device)])
        before += n_visual_of(feature.identifier)
    return found


def _prompt_rows(runner: Any, serving: Any, state: Any) -> PromptRows:
    """Return the rows of a request's prompt; they are made once and live as long as its state."""
    rows: PromptRows | None = getattr(state, "opsearch_rows", None)
    if rows is None:
        visual = visual_rows(len(state.prompt_token_ids), prompt_images(state.mm_features))
        shape = PromptShape(visual, sum(n_visual_of(f.identifier) for f in state.mm_features))
        tokens = shape.full(torch.tensor(state.prompt_token_ids))
        rank = None
        if _needs_ranking(serving, state, visual):
            rank = serving.rank(tokens, shape.full(visual), _all_features(runner, state))
        positions, after = serving.positions(tokens, shape, state.mm_features)
        counts = serving.policy.counts(shape.n_visual)
        rows = state.opsearch_rows = PromptRows.of(shape, counts, rank, positions, after)
    return rows


def _needs_ranking(serving: Any, state: Any, visual: Tensor) -> bool:
    """Return whether rows of a request's images are computed, and the policy ranks them.

    vLLM sends no images whose rows are in its cache.
    """
    uncomputed = bool(visual[state.num_computed_tokens :].any())
    return uncomputed and serving.policy.ranker is not None


def _all_features(runner: Any, state: Any) -> list[Tensor]:
    """Return the features of all images of a request.

    Images of later chunks are encoded here and again when vLLM schedules them, which keeps account
    of its own cache.
    """
    features: list[Tensor | None] = [
        runner.encoder_cache.get(each.identifier) for each in state.mm_features
    ]
    return [
        _encode(runner, each) if known is None else known
        for each, known in zip(state.mm_features, features, strict=True)
    ]


def _encode(runner: Any, feature: Any) -> Tensor:
    """Encode one image."""
    batches = group_and_batch_mm_kwargs([(feature.modality, feature.data)], device=runner.device)
    ((_, _, kwargs),) = list(batches)
    encoded: Sequence[Tensor] = runner.model.embed_multimodal(**kwargs)
    return encoded[0]
