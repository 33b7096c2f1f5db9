"""The original model on a batch: the decoder's inputs and the logits of the answer.

One forward of the unmodified model records the decoder's inputs, the outputs of the vision tower
that rankers need and the logits at the answer positions. Policies are measured from there, without
the vision tower.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from opsearch.errors import PATH, ModelError, shortened
from opsearch.models.clip import read_question
from opsearch.models.devices import device_of_inputs
from opsearch.models.encoding import Sample, batch_inputs
from opsearch.models.families import ModelFamily
from opsearch.models.pruned.ranking import make_prompt
from opsearch.rankers.base import Prompt


@dataclass(frozen=True, eq=False)
class Reference:
    """The original on samples with identical visual-token positions.

    Samples of one forward have equal length; several forwards are padded on the right.

    Attributes:
        prompt: Input of rankers.
        embeds: [B, S + k - 1, D], inputs of the decoder.
        position_ids: int64[1 or B, S + k - 1].
        logits: [B, k, V] at the answer positions.
        counted: bool[B, k], true up to the end of each answer.
    """

    prompt: Prompt
    embeds: Tensor
    position_ids: Tensor
    logits: Tensor
    counted: Tensor

    @property
    def nbytes(self) -> int:
        """Bytes of the largest tensors."""
        captured = sum(value.nbytes for value in self.prompt.captured.values())
        return int(self.embeds.nbytes + self.logits.nbytes + captured)

    def split(self) -> list[Reference]:
        """Return the reference of each sample; they share their memory."""
        shared = self.position_ids.shape[-2] == 1
        return [
            Reference(
                prompt,
                self.embeds[row : row + 1],
                self.position_ids if shared else self.position_ids[..., row : row + 1, :],
                self.logits[row : row + 1],
                self.counted[row : row + 1],
            )
            for row, prompt in enumerate(self.prompt.split())
        ]


@torch.no_grad()
def make_reference(
    model: Any,
    family: ModelFamily,
    samples: Sequence[Sample],
    needs: Collection[str],
    positions: int,
) -> Reference:
    """Run the original.

    Args:
        model: The model.
        family: Its family.
        samples: Samples of equal shape.
        needs: Outputs of the vision tower that rankers read.
        positions: Answer positions k; above 1, the model's own greedy answer is teacher-forced.

    Raises:
        ModelError: A logit is not finite; the message names the sample.
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

    def record_inputs(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        decoder_inputs.update(kwargs)

    decoder = model.get_submodule(family.decoder)
    handles.append(decoder.register_forward_pre_hook(record_inputs, with_kwargs=True))
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
    # Rankers see the prompt only; answer positions count as text.
    answer = (0, positions - 1)
    visual, real = functional.pad(prompt.visual, answer), functional.pad(prompt.real, answer)
    prompt = Prompt(visual, real, prompt.n_visual, captured, embeds).to(embeds.device)
    return Reference(prompt, embeds, position_ids, logits, counted)


def merge_references(parts: Sequence[Reference], captured: Collection[str]) -> Reference:
    """Concatenate references, with these captured values, padding shorter ones on the right."""
    rows = [len(part.embeds) for part in parts]
    positions = [
        part.position_ids.expand(*part.position_ids.shape[:-2], count, -1)
        for part, count in zip(parts, rows, strict=True)
    ]
    prompts = [part.prompt for part in parts]
    visual, real = (
        concat_padded([getattr(prompt, name) for prompt in prompts]) for name in ("visual", "real")
    )
    embeds = concat_padded([part.embeds for part in parts], length=-2)
    n_visual = tuple(n for prompt in prompts for n in prompt.n_visual)
    values = {name: torch.cat([prompt.captured[name] for prompt in prompts]) for name in captured}
    return Reference(
        Prompt(visual, real, n_visual, values, embeds),
        embeds,
        concat_padded(positions, dim=-2),
        concat_padded([part.logits for part in parts]),
        concat_padded([part.counted for part in parts]),
    )


def concat_padded(
    tensors: Sequence[Tensor], dim: int = 0, length: int = -1, value: int = 0
) -> Tensor:
    """Concatenate tensors along `dim`, padding dimension `length` on the right."""
    longest = max(tensor.shape[length] for tensor in tensors)
    flat = (0, 0) * (-1 - length)
    return torch.cat(
        [functional.pad(t, (*flat, 0, longest - t.shape[length]), value=value) for t in tensors],
        dim,
    )


def check_finite(logits: Tensor, samples: Sequence[Sample], sources: Sequence[str]) -> None:
    """Raise ModelError for the first logits [B, N, ...] that are not finite.

    Args:
        logits: Logits of B samples from N sources.
        samples: The samples.
        sources: Name of each source for the message.
    """
    finite = torch.isfinite(logits).flatten(2).all(2)
    if not bool(finite.all()):
        row, column = (~finite).nonzero()[0].tolist()
        raise ModelError(
            f"{sources[column]} gave logits that are not finite for item "
            f"{shortened(samples[row].item.id, PATH)}; check the checkpoint, or use --dtype float32"
        )


def _with_answers(
    model: Any, inputs: dict[str, Tensor], positions: int
) -> tuple[dict[str, Tensor], Tensor]:
    """Append the first positions - 1 tokens of the greedy answer.

    Returns:
        The inputs, and the positions up to the end of each answer, bool[B, positions].
    """
    length = inputs["input_ids"].shape[1]
    answers = model.generate(**inputs, max_new_tokens=positions, do_sample=False)[:, length:]
    ends = model.generation_config.eos_token_id
    ends = torch.tensor(
        [ends] if isinstance(ends, int) else list(ends or []), device=answers.device
    )
    if answers.shape[1] < positions:  # all answers ended early; pad to the planned shape
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
