"""Positions that prompts and their answers take, against those that the model has.

Decoders of the supported families encode positions by rotation. Beyond the positions that they were
trained for they give numbers without an error, and wrong ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from opsearch.data.item import Item
from opsearch.errors import PATH, DataError, shortened
from opsearch.models.answer_length import token_limit
from opsearch.models.families import family_for


class Encoded(Protocol):
    """An encoded sample, as `opsearch.models.encoding.Sample`."""

    @property
    def item(self) -> Item:
        """The item."""

    @property
    def inputs(self) -> Mapping[str, Any]:
        """Inputs of the model, batch size 1."""

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of visual and of other tokens."""


def check_positions(
    samples: Sequence[Encoded],
    config: Any,
    new_tokens: int | Sequence[int] = 1,
    option: str | None = None,
) -> None:
    """Raise DataError where a prompt and its answer exceed the positions of the model.

    Args:
        samples: Encoded samples.
        config: The model's config.
        new_tokens: Answer tokens that are measured or generated, for all samples or for each. The
            last one is never an input.
        option: Option that sets `new_tokens`, for the message; None: it cannot be set.

    Raises:
        DataError: Names the first sample, the number of samples, the limit and the next step.
    """
    if (limit := model_positions(config)) is None:
        return
    answers = [new_tokens] * len(samples) if isinstance(new_tokens, int) else new_tokens
    taken = [prompt_positions(sample.inputs, sample.shape, config) for sample in samples]
    needed = [count + more - 1 for count, more in zip(taken, answers, strict=True)]
    longer = [k for k, count in enumerate(needed) if count > limit]
    if not longer:
        return
    first = longer[0]
    n_visual, n_other = samples[first].shape
    answer = f" and {answers[first] - 1} of its answer" if answers[first] > 1 else ""
    step = "give fewer or smaller images or a shorter question, or leave such items out"
    if option and max(taken) <= limit:
        step += f", or lower {option} to {limit - max(taken) + 1}"
    raise DataError(
        f"item {shortened(samples[first].item.id, PATH)} needs {needed[first]} positions for "
        f"{n_visual} visual tokens, {n_other} others{answer}, but the model has {limit} (samples "
        f"beyond it: {len(longer)} of {len(samples)}); {step}"
    )


def check_answer_positions(
    samples: Sequence[Encoded], processor: Any, config: Any, answer_tokens: int | None = None
) -> None:
    """Raise DataError where a prompt and the answer that is generated exceed the positions.

    Args:
        samples: Encoded samples.
        processor: The model's processor.
        config: The model's config.
        answer_tokens: Maximum number of tokens per answer; None: by the accepted answers.
    """
    tokenizer = processor.tokenizer
    longest = [token_limit(tokenizer, each.item.answers, answer_tokens) for each in samples]
    check_positions(samples, config, longest, "--answer-tokens")


def tokenizer_note(samples: Sequence[Encoded], processor: Any) -> str | None:
    """Return a note where prompts exceed the limit that the tokenizer names; None if none does.

    It is no error, because it is a setting of the tokenizer, often lower than what the model takes.
    """
    limit = getattr(processor.tokenizer, "model_max_length", None)
    longer = [sample for sample in samples if limit and sum(sample.shape) > limit]
    if not longer:
        return None
    return (
        f"{len(longer)} of {len(samples)} prompts are longer than the {limit} tokens that the "
        f"tokenizer names (model_max_length), first item {shortened(longer[0].item.id, PATH)} "
        f"with {sum(longer[0].shape)}; they are within the positions of the model"
    )


def model_positions(config: Any) -> int | None:
    """Return the number of positions of a model; None if its config names none.

    Scaled rotations (linear, dynamic, yarn, longrope, llama3) extend the original number by a
    factor. Some configs name the original number and others the extended one; the larger one holds.
    """
    text = config.get_text_config()
    most = getattr(text, "max_position_embeddings", None)
    if most is None:
        return None
    scaling = getattr(text, "rope_parameters", None) or {}
    original = scaling.get("original_max_position_embeddings") or most
    return max(int(most), int(original * (scaling.get("factor") or 1)))


def prompt_positions(inputs: Mapping[str, Any], tokens: tuple[int, int], config: Any) -> int:
    """Return the number of positions that a prompt takes: the highest position id plus one.

    In most families each token has a position of its own. Where positions are those of a grid, text
    resumes behind the longer side of an image.

    Args:
        inputs: Inputs of the model, batch size 1.
        tokens: Numbers of visual and of other tokens.
        config: The model's config.
    """
    family = family_for(config.model_type)
    grids = inputs.get(family.grid) if family.grid else None
    if grids is None:
        return sum(tokens)
    merged = config.vision_config.spatial_merge_size
    sides: list[int] = [max(height, width) // merged for _, height, width in grids.tolist()]
    return tokens[1] + sum(sides)
