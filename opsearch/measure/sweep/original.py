"""The original model on a batch: the decoder's inputs and the logits of the answer.

One forward of the unmodified model records the decoder's inputs, the outputs of the vision tower
that rankers need and the logits at the answer positions. Policies are measured from there, without
the vision tower.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from opsearch.errors import PATH, ModelError, shortened
from opsearch.measure.sweep.visibility import Visibility, concatenated
from opsearch.models.clip import read_question
from opsearch.models.decoder import Decoder
from opsearch.models.deepstack import added_features
from opsearch.models.devices import device_of, device_of_inputs
from opsearch.models.encoding import Sample, batch_inputs
from opsearch.models.families import ModelFamily
from opsearch.models.handles import Handle
from opsearch.models.pruned.ranking import make_prompt
from opsearch.rankers.base import Prompt

_SAME_LOGITS = 0.05  # largest difference of one product in two calls, in standard deviations


@dataclass(frozen=True, eq=False)
class Target:
    """The original's answers, with which those of policies are compared.

    Attributes:
        logits: [B, k, V] at the answer positions.
        counted: bool[B, k], true up to the end of each answer.
        answer: int64[B, k - 1], the tokens before the last answer position.
    """

    logits: Tensor
    counted: Tensor
    answer: Tensor

    def split(self) -> list[Target]:
        """Return the target of each sample; they share their memory."""
        parts = zip(self.logits, self.counted, self.answer, strict=True)
        return [Target(*(each[None] for each in part)) for part in parts]

    @classmethod
    def joined(cls, parts: Sequence[Target]) -> Target:
        """Return the target of all samples of several ones."""
        columns = zip(*((p.logits, p.counted, p.answer) for p in parts), strict=True)
        return cls(*(torch.cat(column) for column in columns))


@dataclass(frozen=True, eq=False)
class Reference:
    """The original on samples with identical visual-token positions.

    Samples of one forward have equal length; several forwards are padded on the right. Samples with
    an image setting have the decoder's inputs of that setting, and the target at full size.

    Attributes:
        prompt: Input of rankers.
        embeds: [B, S + k - 1, D], inputs of the decoder.
        position_ids: int64[1 or B, S + k - 1], or three of them for time, height and width.
        target: The answers that policies are compared with.
        visibility: Tokens that each token attends to by kind of layer, for those that are not
            causal.
        added: Visual features that the decoder adds behind its first layers, [B, S + k - 1, D]
            each.
    """

    prompt: Prompt
    embeds: Tensor
    position_ids: Tensor
    target: Target
    visibility: Mapping[str, Visibility]
    added: Sequence[Tensor]

    @property
    def logits(self) -> Tensor:
        """Logits of the target, [B, k, V]."""
        return self.target.logits

    @property
    def counted(self) -> Tensor:
        """Answer positions that count, bool[B, k]."""
        return self.target.counted

    @property
    def nbytes(self) -> int:
        """Bytes of the largest tensors."""
        tensors = [self.embeds, self.logits, *self.prompt.captured.values(), *self.added]
        return int(sum(tensor.nbytes for tensor in tensors))

    def split(self) -> list[Reference]:
        """Return the reference of each sample; they share their memory."""
        shared = self.position_ids.shape[-2] == 1
        parts = []
        for row, (prompt, target) in enumerate(
            zip(self.prompt.split(), self.target.split(), strict=True)
        ):
            alone = slice(row, row + 1)
            parts.append(
                Reference(
                    prompt=prompt,
                    embeds=self.embeds[alone],
                    position_ids=self.position_ids[..., slice(None) if shared else alone, :],
                    target=target,
                    visibility={kind: each.part(alone) for kind, each in self.visibility.items()},
                    added=[features[alone] for features in self.added],
                )
            )
        return parts


@torch.no_grad()
def make_reference(
    model: Any,
    family: ModelFamily,
    samples: Sequence[Sample],
    needs: Collection[str],
    positions: int,
    target: Target | None = None,
) -> Reference:
    """Run the original.

    Args:
        model: The model.
        family: Its family.
        samples: Samples of equal shape.
        needs: Outputs of the vision tower that rankers read.
        positions: Answer positions k; above 1, the model's own greedy answer is teacher-forced.
        target: Its answers at full size to samples with an image setting; None: it is run for them.

    Raises:
        ModelError: A logit is not finite; the message names the sample.
    """
    if target is None and any(sample.original for sample in samples):
        target = make_target(model, family, [s.original or s for s in samples], positions)
    inputs = batch_inputs(samples, device_of_inputs(model))
    prompt = make_prompt(model, family, inputs["input_ids"], None)
    read_question(model, needs, prompt, inputs["input_ids"])
    if target is not None:
        answer, counted = target.answer, target.counted
    else:
        answer, counted = _greedy_answer(model, inputs, positions)
    if positions > 1:
        inputs = _with_answer(inputs, answer, family.answer_type)
    captured = dict(prompt.captured)
    handles = family.capture(model, needs, captured.__setitem__)
    recorded = _Recorded(Decoder.of(model, family))
    handles += recorded.hooks()
    try:
        logits = model(**inputs, use_cache=False, logits_to_keep=counted.shape[1]).logits
    finally:
        # A later change may hold what an earlier one replaced.
        for handle in reversed(handles):
            handle.remove()
    check_finite(logits[:, None], samples, ["the original model"])
    if not family.tested:
        recorded.check(logits)
        recorded.check_reach(prompt.visual)
    embeds = recorded.inputs["inputs_embeds"]
    # Rankers see the prompt only; answer positions count as text.
    behind = (0, positions - 1)
    visual, real = functional.pad(prompt.visual, behind), functional.pad(prompt.real, behind)
    prompt = Prompt(visual, real, prompt.n_visual, captured, embeds).to(embeds.device)
    return Reference(
        prompt=prompt,
        embeds=embeds,
        position_ids=recorded.position_ids,
        target=target or Target(logits, counted, answer),
        visibility=recorded.visibility,
        added=added_features(recorded.inputs),
    )


def make_target(
    model: Any, family: ModelFamily, samples: Sequence[Sample], positions: int
) -> Target:
    """Run the original on samples of any shapes for its answers alone; see `make_reference`."""
    found: dict[str, Target] = {}
    for group in of_equal_shape(samples):
        whole = make_reference(model, family, group, (), positions).target
        found |= {s.digest: part for s, part in zip(group, whole.split(), strict=True)}
    return Target.joined([found[sample.digest] for sample in samples])


def of_equal_shape(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Return the samples in groups of equal shape."""
    shapes: dict[tuple[int, int], list[Sample]] = {}
    for sample in samples:
        shapes.setdefault(sample.shape, []).append(sample)
    return list(shapes.values())


class _Recorded:
    """Inputs of the decoder and its layers in one forward of the original.

    Attributes:
        inputs: Arguments of the decoder.
        visibility: Tokens that each token attends to by kind of layer, where it is not causal.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self.inputs: dict[str, Any] = {}
        self.visibility: dict[str, Visibility] = {}
        self._output: Any = None

    def hooks(self) -> list[Handle]:
        """Install the hooks; the first layer of each kind has the mask of all of them."""
        module = self.decoder.module
        handles: list[Handle] = [
            module.register_forward_pre_hook(self._record_inputs, with_kwargs=True),
            module.register_forward_hook(self._record_output),
        ]
        for kind in self.decoder.kinds:
            layer = next(each for each in self.decoder.layers if each.kind == kind)
            hook = partial(self._record_mask, kind)
            handles.append(layer.module.register_forward_pre_hook(hook, with_kwargs=True))
        return handles

    @property
    def position_ids(self) -> Tensor:
        """Positions, int64[1 or B, S], or int64[3, 1 or B, S] for time, height and width."""
        embeds, found = self.inputs["inputs_embeds"], self.inputs.get("position_ids")
        if found is None:
            return torch.arange(embeds.shape[1], device=embeds.device)[None]
        positions: Tensor = found
        # Four kinds of positions: those of text come before time, height and width.
        return positions[1:] if positions.ndim == 3 and len(positions) == 4 else positions

    def check(self, logits: Tensor) -> None:
        """Raise ModelError unless these are the logits [B, k, V] of the decoder's output."""
        output = self._output[:, -logits.shape[1] :]
        own = self.decoder.normed_logits(output.to(device_of(self.decoder.head))).to(logits.device)
        scale = logits.float().std()
        if float((own - logits).float().abs().max()) > _SAME_LOGITS * float(scale):
            raise ModelError(
                f"the logits of a {type(self.decoder.model).__name__} are not those of its lm_head "
                "on the decoder's output, so that policies cannot be measured; use a model of a "
                "family in docs/families.md"
            )

    def check_reach(self, visual: Tensor) -> None:
        """Raise ModelError if tokens see later ones that the sweep of their rows does not read.

        Visual tokens may see all up to the last visual token, text before them earlier text only.

        Args:
            visual: Mask of the visual tokens, bool[B, S].
        """
        positions = torch.arange(visual.shape[1], device=visual.device)
        first = visual.int().argmax(1, keepdim=True)
        last = (visual * positions).amax(1, keepdim=True)
        limit = torch.where(positions < first, first - 1, last)
        for visibility in self.visibility.values():
            reach = visibility.last[:, : visual.shape[1]].to(visual.device)
            if bool(((positions <= last) & visual.any(1, keepdim=True) & (reach > limit)).any()):
                raise ModelError(
                    f"tokens of a {type(self.decoder.model).__name__} attend to text behind its "
                    "images, so that policies cannot be measured; use a model of a family in "
                    "docs/families.md"
                )

    def _record_inputs(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        self.inputs.update(kwargs)

    def _record_output(self, module: Any, args: Any, output: Any) -> None:
        self._output = output[0]

    def _record_mask(self, kind: str, layer: Any, args: Any, kwargs: dict[str, Any]) -> None:
        found = Visibility.of_mask(kwargs.get("attention_mask"), len(self.inputs["inputs_embeds"]))
        if found is not None:
            self.visibility[kind] = found


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
    lengths = [part.embeds.shape[1] for part in parts]
    kinds = dict.fromkeys(kind for part in parts for kind in part.visibility)
    visibility = {
        kind: concatenated([part.visibility.get(kind) for part in parts], rows, lengths)
        for kind in kinds
    }
    return Reference(
        prompt=Prompt(visual, real, n_visual, values, embeds),
        embeds=embeds,
        position_ids=concat_padded(positions, dim=-2),
        target=Target.joined([part.target for part in parts]),
        visibility=visibility,
        added=[
            concat_padded(each, length=-2) for each in zip(*(p.added for p in parts), strict=True)
        ],
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


def _greedy_answer(model: Any, inputs: dict[str, Tensor], positions: int) -> tuple[Tensor, Tensor]:
    """Return the first positions - 1 tokens of the greedy answer to prompts.

    Returns:
        The tokens, int64[B, positions - 1], and the positions up to the end of each answer,
        bool[B, positions].
    """
    ids = inputs["input_ids"]
    if positions == 1:
        return ids[:, :0], torch.ones_like(ids[:, :1], dtype=torch.bool)
    answers = model.generate(**inputs, max_new_tokens=positions, do_sample=False)[:, ids.shape[1] :]
    ends = model.generation_config.eos_token_id
    ends = torch.tensor(
        [ends] if isinstance(ends, int) else list(ends or []), device=answers.device
    )
    if answers.shape[1] < positions:  # all answers ended early; pad to the planned shape
        answers = functional.pad(answers, (0, positions - answers.shape[1]), value=int(ends[0]))
    ended = torch.isin(answers, ends).int().cumsum(1) - torch.isin(answers, ends).int()
    return answers[:, :-1], ended == 0


def _with_answer(inputs: dict[str, Tensor], answer: Tensor, answer_type: int) -> dict[str, Tensor]:
    """Append the tokens of answers, int64[B, A], of this type of tokens to prompts."""
    extended = dict(inputs)
    extended["input_ids"] = torch.cat([inputs["input_ids"], answer], 1)
    extended["attention_mask"] = torch.ones_like(extended["input_ids"])
    for name, text in (("mm_token_type_ids", 0), ("token_type_ids", answer_type)):
        if name in inputs:
            extended[name] = functional.pad(inputs[name], (0, answer.shape[1]), value=text)
    return extended
