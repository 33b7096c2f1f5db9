"""The original model on a batch: what the decoder was given, and what it answered.

One stock forward records the decoder's inputs, the vision tower's contribution to rankings and the
logits at the answer positions; policies are then measured from there, without the vision tower.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from opsearch.errors import ModelError
from opsearch.measure.samples import Sample, batch_inputs
from opsearch.rankers.prompt import Prompt
from opsearch.runtime.adapters import ModelFamily
from opsearch.runtime.clip import read_question
from opsearch.runtime.places import device_of_inputs
from opsearch.runtime.ranking import make_prompt
from opsearch.upload import upload


@dataclass(frozen=True, eq=False)
class Reference:
    """The original on samples whose visual tokens stand at the same places.

    Samples of one call of the model are equally long; those of several are padded behind their end.

    embeds: [B, S + k - 1, D], what enters the decoder; position_ids: int64[1 or B, S + k - 1].
    logits: [B, k, V] at the answer positions; counted: bool[B, k], up to each answer's end.
    """

    prompt: Prompt
    embeds: Tensor
    position_ids: Tensor
    logits: Tensor
    counted: Tensor

    @property
    def nbytes(self) -> int:
        """Memory of its largest tensors."""
        return int(self.embeds.nbytes + self.logits.nbytes)


@torch.no_grad()
def make_reference(
    model: Any,
    family: ModelFamily,
    samples: Sequence[Sample],
    needs: Collection[str],
    positions: int,
) -> Reference:
    """Run the original; `positions` > 1 follows its own greedy answer, teacher-forced, to its end.

    Raises ModelError naming the sample when a logit is not finite.
    """
    inputs = batch_inputs(samples, device_of_inputs(model))
    prompt = make_prompt(model, family, inputs["input_ids"], None)
    read_question(model, needs, prompt, inputs["input_ids"])
    counted = torch.ones_like(inputs["input_ids"][:, :1], dtype=torch.bool)
    if positions > 1:
        inputs, counted = _with_answers(model, inputs, positions)
    captured = dict(prompt.captured)
    handles = family.capture(model, needs, captured.__setitem__)
    decoder_inputs: dict[str, Any] = {}

    def keep(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        decoder_inputs.update(kwargs)

    decoder = model.get_submodule(family.decoder)
    handles.append(decoder.register_forward_pre_hook(keep, with_kwargs=True))
    try:
        logits = model(**inputs, use_cache=False, logits_to_keep=counted.shape[1]).logits
    finally:
        for handle in handles:
            handle.remove()
    check_finite(logits[:, None], samples, ["the original model"])
    embeds = decoder_inputs["inputs_embeds"]
    position_ids = decoder_inputs.get("position_ids")
    if position_ids is None:
        position_ids = torch.arange(embeds.shape[1], device=embeds.device)[None]
    # The rankers see the prompt only; the answer's positions are text to the plan.
    answer = (0, positions - 1)
    visual, real = functional.pad(prompt.visual, answer), functional.pad(prompt.real, answer)
    prompt = Prompt(visual, real, prompt.n_visual, captured, embeds).to(embeds.device)
    return Reference(prompt, embeds, position_ids, logits, counted)


def padded(parts: Sequence[Reference], order: Sequence[int]) -> Reference:
    """Samples of several references as one, in this order, without what rankers read."""
    rows = [len(part.embeds) for part in parts]
    positions = [
        part.position_ids.expand(*part.position_ids.shape[:-2], count, -1)
        for part, count in zip(parts, rows, strict=True)
    ]
    visual, real = (
        joined([getattr(part.prompt, name) for part in parts], order) for name in ("visual", "real")
    )
    embeds = joined([part.embeds for part in parts], order, length=-2)
    n_visual = [n for part in parts for n in part.prompt.n_visual]
    return Reference(
        Prompt(visual, real, tuple(n_visual[place] for place in order), embeds=embeds),
        embeds,
        joined(positions, order, dim=-2),
        joined([part.logits for part in parts], order),
        joined([part.counted for part in parts], order),
    )


def joined(
    tensors: Sequence[Tensor], order: Sequence[int], dim: int = 0, length: int = -1, value: int = 0
) -> Tensor:
    """Tensors behind each other along `dim`, then in this order; `length` is padded with value."""
    longest = max(tensor.shape[length] for tensor in tensors)
    flat = (0, 0) * (-1 - length)
    together = torch.cat(
        [functional.pad(t, (*flat, 0, longest - t.shape[length]), value=value) for t in tensors],
        dim,
    )
    return together.index_select(dim, upload(order, together.device))


def check_finite(logits: Tensor, samples: Sequence[Sample], who: Sequence[str]) -> None:
    """Raise ModelError naming who gave nan or infinity first, and for which item.

    logits: [B, N, ...] of these samples by these N.
    """
    finite = torch.isfinite(logits).flatten(2).all(2)
    if not bool(finite.all()):
        row, column = (~finite).nonzero()[0].tolist()
        raise ModelError(
            f"{who[column]} gave logits that are not finite for item {samples[row].item.id}; "
            "check the checkpoint, or use --dtype float32"
        )


def _with_answers(
    model: Any, inputs: dict[str, Tensor], positions: int
) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs with the first positions - 1 tokens of the greedy answer; which positions count."""
    length = inputs["input_ids"].shape[1]
    answers = model.generate(**inputs, max_new_tokens=positions, do_sample=False)[:, length:]
    ends = model.generation_config.eos_token_id
    ends = torch.tensor(
        [ends] if isinstance(ends, int) else list(ends or []), device=answers.device
    )
    if answers.shape[1] < positions:  # all have ended; shapes are those that were planned
        answers = functional.pad(answers, (0, positions - answers.shape[1]), value=int(ends[0]))
    ended = torch.isin(answers, ends).int().cumsum(1) - torch.isin(answers, ends).int()
    forced = answers[:, :-1]
    extended = dict(inputs)
    extended["input_ids"] = torch.cat([inputs["input_ids"], forced], 1)
    extended["attention_mask"] = torch.ones_like(extended["input_ids"])
    if "mm_token_type_ids" in inputs:  # 0 is text
        extended["mm_token_type_ids"] = functional.pad(
            inputs["mm_token_type_ids"], (0, forced.shape[1])
        )
    return extended, ended == 0
