"""Encoding of samples by a model's processor, one by one and without padding."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from opsearch.costs.base import SampleSize
from opsearch.data.item import Item
from opsearch.errors import PATH, DataError, ModelError, shortened
from opsearch.formatting import counted, screen_repr
from opsearch.models.digests import settings_digest
from opsearch.models.families import family_for
from opsearch.models.images import image_flops
from opsearch.models.picture_notes import PictureNotes
from opsearch.models.positions import check_positions, tokenizer_note
from opsearch.models.refusals import refusal


@dataclass(frozen=True, eq=False)
class Sample:
    """An encoded sample.

    Attributes:
        item: The item.
        digest: Digest of the item.
        inputs: Inputs of the model, batch size 1.
        n_visual: Visual tokens.
        n_other: All other tokens.
        content: Digest of the item's question and images.
        image_flops: FLOPs of vision tower and projector; None if they are not known.
        original: The sample as the processor encodes it by itself, which the original model reads;
            None: this one.
    """

    item: Item
    digest: str
    inputs: dict[str, Tensor]
    n_visual: int
    n_other: int
    content: str = ""
    image_flops: int | None = None
    original: Sample | None = None

    __repr__ = screen_repr

    @property
    def shape(self) -> tuple[int, int]:
        """Token counts; samples of equal shape form a batch without padding."""
        return self.n_visual, self.n_other

    @property
    def size(self) -> SampleSize:
        """Sizes on which costs depend."""
        original = None if self.original is None else self.original.size
        return SampleSize(self.n_visual, self.n_other, self.image_flops, original)

    @property
    def images(self) -> dict[str, Tensor]:
        """All inputs that have no entry per position."""
        shape = self.inputs["input_ids"].shape
        return {name: each for name, each in self.inputs.items() if each.shape != shape}

    @cached_property
    def images_digest(self) -> str:
        """SHA-256 of all inputs that have no entry per position."""
        return settings_digest(self.images)


def sample_digest(inputs: Mapping[str, Tensor], item: Item) -> str:
    """Return the key of a sample's stored numbers, a SHA-256 (hex).

    Args:
        inputs: All that the model is fed.
        item: The item, whose answers and metric decide the score.
    """
    return settings_digest([inputs, item.answers, item.metric])


def encode(
    items: Sequence[Item],
    processor: Any,
    config: Any,
    progress: Callable[[int], None] | None = None,
    say: Callable[[str], None] | None = None,
) -> list[Sample]:
    """Encode items with the processor's chat template; needs no weights.

    Args:
        items: The items.
        processor: The model's processor.
        config: The model's configuration.
        progress: Called with the number of encoded samples.
        say: Called with each note, on pictures whose content the processor loses and on prompts
            beyond the tokenizer's limit; None: notes are warnings of the logger "opsearch".

    Raises:
        DataError: The data set is empty, an image is broken or refused by the processor, the
            placeholders of a prompt do not match its images, or a prompt exceeds the model's
            positions.
    """
    if not items:
        raise DataError("the data set is empty; give --data a file with at least one item")
    family = family_for(config.model_type)
    samples, notes = [], PictureNotes(processor)
    for done, item in enumerate(items, 1):
        pictures = item.pictures()
        images = [picture.image for picture in pictures]
        prompt = prompt_text(processor, item)
        try:
            inputs = _tokenize(processor, prompt, images)
        except Exception as error:  # of any kind, as processors check little
            raise refusal(item, pictures, error, partial(_encode_plainly, processor)) from error
        notes.add(pictures)
        n_visual = int(family.visual_positions(config, inputs["input_ids"]).sum())
        if images and not n_visual:
            raise DataError(
                f"item {shortened(item.id, PATH)}: its prompt with {counted(len(images), 'image')} "
                "has no visual tokens; check the processor's image token and chat template"
            )
        n_other = inputs["input_ids"].shape[1] - n_visual
        key, content = sample_digest(inputs, item), item.digest()
        flops = image_flops(config, inputs)
        samples.append(
            Sample(item, key, inputs, n_visual, n_other, content=content, image_flops=flops)
        )
        if progress:
            progress(done)
    check_positions(samples, config)
    longer = tokenizer_note(samples, processor)
    for note in [*notes.lines(), *([longer] if longer else [])]:
        (say or logging.getLogger("opsearch").warning)(note)
    return samples


def prompt_text(processor: Any, item: Item) -> str:
    """Return the prompt of an item in the model's chat template, images first.

    Raises:
        ModelError: The template is broken or refuses a plain question.
    """
    content = [{"type": "image"} for _ in item.images] + [{"type": "text", "text": item.question}]
    messages = [{"role": "user", "content": content}]
    try:
        prompt: str = processor.apply_chat_template(messages, add_generation_prompt=True)
    except Exception as error:  # a template is code, and may raise anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelError(
            "the chat template of the model's processor cannot write the prompt of item "
            f"{shortened(item.id, PATH)} ({reason}); correct or replace chat_template.jinja in its "
            "folder"
        ) from error
    return prompt


def _tokenize(processor: Any, prompt: str, images: Sequence[Any]) -> dict[str, Tensor]:
    start = processor.tokenizer.bos_token
    # Some templates write the start token themselves; do not add a second one.
    extra = {"add_special_tokens": False} if start and prompt.startswith(start) else {}
    extra["verbose"] = False  # no warning of long prompts: `encode` gives a note
    # A nested list, because LLaVA-OneVision tiles several images of one prompt differently.
    nested = [list(images)] if images else None
    inputs = dict(processor(text=[prompt], images=nested, return_tensors="pt", **extra))
    # PaliGemma's processor adds labels, whose loss needs the logits of all rows.
    inputs.pop("labels", None)
    return inputs


def _encode_plainly(processor: Any, images: Sequence[Any]) -> None:
    """Encode images with a question that has no placeholders."""
    plain = Item("", "?", (), tuple(images))
    _tokenize(processor, prompt_text(processor, plain), images)


def batch_inputs(samples: Sequence[Sample], device: Any) -> dict[str, Tensor]:
    """Return the inputs of samples of equal shape, stacked along the batch."""
    stack = _stack if len(samples[0].images) > 1 else _stack_tiles
    inputs = {name: [sample.inputs[name] for sample in samples] for name in samples[0].inputs}
    return {name: stack(each).to(device) for name, each in inputs.items()}


def _stack_tiles(inputs: Sequence[Tensor]) -> Tensor:
    """Concatenate one input of several samples whose model reads every tile that it is given.

    Images [images, tiles, 3, height, width] of different numbers of tiles become images of one tile
    each, as Perception LM has no input that tells tiles from padding.
    """
    if inputs[0].ndim == 5 and len({each.shape[1] for each in inputs}) > 1:
        inputs = [each.flatten(0, 1)[:, None] for each in inputs]
    return _stack(inputs)


def _stack(inputs: Sequence[Tensor]) -> Tensor:
    """Concatenate one input of several samples.

    Images [images, tiles, 3, height, width] are padded with empty tiles, images [images, 3, height,
    width] at the right and below, as processors do; models derive the true number of tiles and the
    true height and width from further inputs.
    """
    sizes = [max(dims) for dims in zip(*(each.shape[1:] for each in inputs), strict=True)]

    def padded(each: Tensor) -> Tensor:
        missing = [size - own for size, own in zip(sizes, each.shape[1:], strict=True)]
        return pad(each, [number for most in reversed(missing) for number in (0, most)])

    return torch.cat([padded(each) for each in inputs])


def batches(samples: Sequence[Sample], max_tokens: int) -> list[list[Sample]]:
    """Group samples by equal shape, in groups of at most `max_tokens` positions."""
    by_shape: dict[tuple[int, int], list[Sample]] = {}
    for sample in samples:
        by_shape.setdefault(sample.shape, []).append(sample)
    groups = []
    for shape, members in sorted(by_shape.items()):
        width = max(1, max_tokens // sum(shape))
        groups += [members[i : i + width] for i in range(0, len(members), width)]
    return groups
