"""Inputs of a plan from a prompt and a policy: rankers, ranks and counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from opsearch.errors import PolicyError
from opsearch.models.attention import CosSin
from opsearch.models.families import ModelFamily
from opsearch.models.layers import DecoderLayer
from opsearch.models.pruned.execution import Execution, check_same_ranker
from opsearch.models.pruned.masks import visible_keys
from opsearch.models.pruned.plan import BatchReranking, Plan, PlanInputs
from opsearch.models.pruned.rows import Rows, RowSubset
from opsearch.policy.counts import Counts
from opsearch.policy.schedule import Reranking, Schedule
from opsearch.rankers import make_decoder_ranker
from opsearch.rankers.base import AttentionView, Prompt, Ranker
from opsearch.rankers.upload import upload


def make_prompt(
    model: Any, family: ModelFamily, input_ids: Any, attention_mask: Tensor | None
) -> Prompt:
    """Find the visual and real positions of a batch; synchronizes with the device once."""
    given = {"input_ids": input_ids, "attention_mask": attention_mask}
    return read_prompt(model, family, given, 1)[0]


def read_prompt(
    model: Any, family: ModelFamily, kwargs: dict[str, Any], rows: Any
) -> tuple[Prompt, bool]:
    """Find the visual and real positions of a prefill; synchronizes with the device once.

    Args:
        model: The model.
        family: Its family.
        kwargs: Arguments of the trunk, checked by `check_prefill`.
        rows: `logits_to_keep` of the call: number of last rows that are a result; 0 for all rows,
            as is anything but a number.

    Returns:
        The batch, and whether rows of visual tokens are a result.

    Raises:
        PolicyError: The batch cannot be pruned.
    """
    input_ids, attention_mask = kwargs["input_ids"], kwargs.get("attention_mask")
    visual = family.visual_positions(model.config, input_ids)
    real = torch.ones_like(visual) if attention_mask is None else attention_mask.bool()
    last = (real * torch.arange(1, real.shape[1] + 1, device=real.device)).argmax(1, keepdim=True)
    wanted = visual[:, -rows:] if isinstance(rows, int) and rows > 0 else visual
    found = (visual.gather(1, last), visual & ~real, _restarts(kwargs, visual), wanted)
    counts = torch.stack([each.sum() for each in found])
    *sizes, at_end, hidden, restarts, in_rows = torch.cat(
        [visual.sum(1), (real & ~visual).sum(1), counts]
    ).tolist()
    if at_end:
        raise PolicyError(
            "a prompt ends with an image, where a policy computes no answer; put the text after "
            "the image, and leave out prefill_chunk_size, which cuts prompts"
        )
    if hidden:
        raise PolicyError(
            f"attention_mask hides {hidden} visual token(s), which a policy would count and rank; "
            "leave their images out of the prompt, or pass the processor's attention_mask"
        )
    if restarts and any(sizes[: len(visual)]):
        raise PolicyError(
            "position_ids start anew within a row, which packs several prompts into one; give "
            "each prompt a row of its own, with attention_mask"
        )
    prompt = Prompt(visual, real, tuple(sizes[: len(visual)]))
    prompt.n_other = tuple(sizes[len(visual) :])
    return prompt, bool(in_rows)


def _restarts(kwargs: dict[str, Any], visual: Tensor) -> Tensor:
    """Return where the text positions of unpadded rows do not go on, as in packed sequences.

    Without a cache, stock models take every step but 1 for the start of another prompt.
    """
    positions = kwargs.get("position_ids")
    if positions is not None and positions.ndim == 3:
        # Four kinds of positions: those of text come before time, height and width.
        positions = positions[0] if len(positions) == 4 else None
    if positions is None or kwargs.get("attention_mask") is not None:
        return visual.new_zeros(1)
    steps: Tensor = positions.diff(dim=-1).to(visual.device)
    uncached = kwargs.get("past_key_values") is None and kwargs.get("use_cache") is False
    return steps != 1 if uncached else steps < 1


def plan_inputs(
    prompt: Prompt, executed: Sequence[Execution], added: Sequence[Tensor] = ()
) -> PlanInputs:
    """Return the inputs of a batch's plan.

    Args:
        prompt: The batch.
        executed: What each sample runs.
        added: See PlanInputs.
    """
    own = list(zip(executed, prompt.n_visual, strict=True))
    schedules = [each.resolved.schedule(n) for each, n in own]
    most = [max(schedule.kept, default=0) for schedule in schedules]
    counts = np.stack([each.resolved.executed(n) for each, n in own])
    return PlanInputs(prompt, _rank(prompt, executed, most), counts, _rerankings(schedules), added)


def _rank(prompt: Prompt, executed: Sequence[Execution], most: Sequence[int]) -> Tensor:
    """Return the rank of each visual token in its sample, by the sample's own ranker."""
    rank = torch.where(prompt.visual, 0, -1)
    rankers: list[Ranker] = []  # which need not be hashable
    for each in executed:
        if each.ranker is not None and each.ranker not in rankers:
            rankers.append(each.ranker)
    for ranker in rankers:
        uses = [each.ranker == ranker for each in executed]
        found = ranker.rank(prompt, [n if used else 0 for n, used in zip(most, uses, strict=True)])
        if all(uses):
            return found
        rows = upload(torch.tensor(uses)[:, None], rank.device)
        rank = torch.where(rows, found, rank)
    return rank


def _rerankings(schedules: Sequence[Schedule]) -> dict[int, BatchReranking]:
    """Return the rerankings of any sample, by the first layer that uses the new ranking."""
    found: dict[int, Reranking] = {}
    candidates: dict[int, Counts] = {}
    for row, schedule in enumerate(schedules):
        for reranking in schedule.rerankings:
            first = found.setdefault(reranking.layer, reranking)
            check_same_ranker(first, reranking)
            of_layer = candidates.setdefault(reranking.layer, np.zeros(len(schedules), np.int64))
            of_layer[row] = reranking.candidates
    return {
        layer: BatchReranking(
            make_decoder_ranker(each.spec), each.attention_layer, candidates[layer]
        )
        for layer, each in found.items()
    }


def repeat_for_beams(values: Tensor, n_visual: Sequence[int]) -> Tensor:
    """Repeat values of all visual tokens as generate() repeats the samples for beam search."""
    copies = sum(n_visual) // len(values)
    if copies == 1:
        return values
    parts = values.split(list(n_visual[::copies]))
    return torch.cat([part for part in parts for _ in range(copies)])


def decoder_scores(
    layer: DecoderLayer,
    plan: Plan,
    reranking: BatchReranking,
    stream: Tensor,
    stream_rows: Rows,
    position_embeddings: CosSin,
    stock_mask: Tensor | None,
) -> Tensor:
    """Return the scores of a ranker from the attention of one layer.

    Args:
        layer: Decoder layer whose attention the ranker reads.
        plan: Plan of the batch.
        reranking: Ranker and its candidates.
        stream: Inputs of the layer, [R, D].
        stream_rows: Positions of the rows of `stream`.
        position_embeddings: cos and sin of all positions.
        stock_mask: The layer's attention mask, None for causal attention.

    Returns:
        float32[B, S]; values at positions that are not candidates are meaningless.
    """
    keys = plan.rows(reranking.candidates)
    text = plan.rows(reranking.candidates * 0)
    choices = {"last": _last_rows(keys, plan), "text": text, "all": keys}
    queries = choices[reranking.ranker.query_rows]
    normed = layer.attention_input(RowSubset.of(keys, stream_rows).take(stream))
    attention = layer.attention

    def project(projection: Any, rows: Rows) -> Tensor:
        cos, sin = position_embeddings
        states = RowSubset.of(rows, keys).pad(normed, rows.sizes)
        heads: Tensor = projection(states, (rows.gather(cos), rows.gather(sin)))
        return heads

    view = AttentionView(
        prompt=plan.prompt,
        queries=project(attention.queries, queries),
        query_positions=queries.index,
        query_valid=queries.valid,
        keys=project(attention.keys, keys),
        key_positions=keys.index,
        key_valid=keys.valid,
        scaling=attention.scaling,
        visible=visible_keys(stock_mask, queries, keys),
    )
    scores = reranking.ranker.scores(view)
    return scores.new_zeros(plan.rank.shape).scatter(1, keys.index, scores)


def _last_rows(keys: Rows, plan: Plan) -> Rows:
    """Return the last row of each prompt."""
    real = plan.prompt.real
    columns = torch.arange(real.shape[1], device=real.device)
    index = (columns * real).amax(1, keepdim=True)
    return Rows(index, (1,) * len(index), keys.length)
