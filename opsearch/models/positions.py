"""Positions that prompts and their answers take, against those that the model has.

Decoders of the supported families encode positions by rotation. Beyond the positions that they were
trained for they give numbers without an error, and wrong ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from opsearch.data.item import Item
from opsearch.errors import DataError
from opsearch.models.families import family_for

_UNLIMITED = 10**20  # tokenizers without a limit have 10^30


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
    processor: Any,
    config: Any,
    new_tokens: int = 1,
    option: str | None = None,
) -> None:
    """Raise DataError where a prompt and its answer exceed the positions of the model.

    Args:
        samples: Encoded samples.
        processor: The model's processor, whose tokenizer may have a lower limit.
        config: The model's config.
        new_tokens: Answer tokens that are measured or generated. The last one is never an input.
        option: Option that sets `new_tokens`, for the message; None: it cannot be set.

    Raises:
        DataError: Names the first sample, the number of samples, the limit and the next step.
    """
    for limit, taken, described in _limits(samples, processor, config):
        longer = [k for k, count in enumerate(taken) if count + new_tokens - 1 > limit]
        if not longer:
            continue
        sample, needed = samples[longer[0]], taken[longer[0]] + new_tokens - 1
        n_visual, n_other = sample.shape
        answer = f" and {new_tokens - 1} of its answer" if new_tokens > 1 else ""
        step = "give fewer or smaller images, shorter questions, or --data without such items"
        if option and max(taken) <= limit:
            step += f", or lower {option} to {limit - max(taken) + 1}"
        raise DataError(
            f"item {sample.item.id} needs {needed} positions for {n_visual} visual tokens, "
            f"{n_other} others{answer}, but {described} (samples beyond it: {len(longer)} "
            f"of {len(samples)}); {step}"
        )


def _limits(
    samples: Sequence[Encoded], processor: Any, config: Any
) -> list[tuple[int, list[int], str]]:
    """Return each limit with what every prompt takes of it, and the words for it."""
    limits = []
    if (most := model_positions(config)) is not None:
        taken = [prompt_positions(sample.inputs, sample.shape, config) for sample in samples]
        limits.append((most, taken, f"the model has {most}"))
    # The tokenizer counts tokens, several of which may share a position.
    if (longest := tokenizer_limit(processor)) is not None:
        tokens = [sum(sample.shape) for sample in samples]
        reason = (
            f"its tokenizer takes {longest} tokens (model_max_length in tokenizer_config.json, "
            "which you may raise if the model takes more)"
        )
        limits.append((longest, tokens, reason))
    return limits


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


def tokenizer_limit(processor: Any) -> int | None:
    """Return the number of tokens that the tokenizer names as its limit; None if it names none."""
    limit = getattr(processor.tokenizer, "model_max_length", None)
    return int(limit) if limit and limit < _UNLIMITED else None


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
