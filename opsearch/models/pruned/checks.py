"""Checks that a policy and a prefill can be pruned correctly; anything else is an error."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

from opsearch.errors import ModelError, PolicyError, echo
from opsearch.models.families import ModelFamily
from opsearch.models.handles import replaced
from opsearch.models.pruned.block import Block
from opsearch.models.pruned.cache import PrunedCache, PrunedLayer
from opsearch.policy.policy import Policy


def check_fits(policy: Policy, config: Any) -> None:
    """Raise PolicyError unless the policy has the family and number of layers of this config."""
    family, layers = config.model_type, config.get_text_config().num_hidden_layers
    if policy.model_type not in (None, family):
        raise PolicyError(
            f"the policy was searched for family {echo(policy.model_type)}, the model is "
            f"{echo(family)}; search one for this family"
        )
    if policy.num_layers != layers:
        raise PolicyError(
            f"the policy has {policy.num_layers} layers, the model's decoder has {layers}; "
            "search a policy for this model, or give the model that it is for (--model)"
        )


def check_full_size(policy: Policy, what: str) -> None:
    """Raise PolicyError if the policy has an image setting, which `what` cannot follow."""
    if policy.images is not None:
        raise PolicyError(
            f"the policy was searched on smaller images, {policy.images}, and {what} encodes them "
            "at full size; use eval without --tasks or generate, or encode prompts with "
            "policy.processor(processor)"
        )


def check_prefill(cache: Any, input_ids: Any, kwargs: dict[str, Any], config: Any) -> None:
    """Raise PolicyError unless the trunk's arguments describe a prefill that can be pruned."""
    if input_ids is None:
        raise PolicyError(
            "pruning finds the visual tokens by input_ids, but only inputs_embeds were given; pass "
            "input_ids and pixel_values"
        )
    if input_ids.numel() == 0:
        raise PolicyError(
            f"the prompt is empty: input_ids has shape {tuple(input_ids.shape)} (samples, tokens); "
            "give at least one sample, and each at least one token"
        )
    if kwargs.get("cache") is not None:  # of a manager that began before the policy
        raise continuous_batching_error()
    plain = type(cache) in (DynamicCache, PrunedCache) and not cache.offloading
    odd = {type(layer) for layer in getattr(cache, "layers", ())} - _GROWING
    if cache is not None and (odd or not plain):
        kind = "n offloaded" if getattr(cache, "offloading", False) else ""
        of = f" of {', '.join(sorted(each.__name__ for each in odd))}" if odd else ""
        raise PolicyError(
            f"a{kind} {type(cache).__name__}{of} cannot hold layers of different length; leave out "
            "cache_implementation or pass a plain DynamicCache"
        )
    mask = kwargs.get("attention_mask")
    shape = tuple(getattr(mask, "shape", ()))
    if mask is not None and shape != input_ids.shape:
        raise PolicyError(
            f"attention_mask has shape {shape}, pruning needs that of input_ids "
            f"{tuple(input_ids.shape)}; pass the processor's attention_mask"
        )
    for packed in _PACKED:
        if kwargs.get(packed) is not None:
            raise PolicyError(
                f"{packed} packs several prompts into one row, but a policy counts and ranks the "
                "visual tokens of each; give each prompt a row of its own, with attention_mask"
            )
    for wanted in ("output_hidden_states", "output_attentions"):
        if kwargs.get(wanted) or getattr(config.get_text_config(), wanted, False):
            raise PolicyError(
                f"{wanted}=True is not available under a policy: its layers process "
                "different rows; use the original model"
            )


def continuous_batching_error() -> PolicyError:
    """Return the error for continuous batching by transformers."""
    return PolicyError(
        "continuous batching by transformers (generate_batch) takes no images and no layers of "
        "different length; call model.generate without cache_implementation='paged', or serve the "
        "policy with vLLM (opsearch serve)"
    )


_GROWING = {DynamicLayer, DynamicSlidingWindowLayer, PrunedLayer}
_PACKED = ("cu_seq_lens_q", "cu_seq_lens_k", "seq_idx")


def check_labels(kwargs: dict[str, Any]) -> None:
    """Raise PolicyError if the loss of a batch with images would read rows of padding.

    Args:
        kwargs: Arguments of the model. Row t predicts the label of t + 1, or that of t in
            `shift_labels`; with `logits_to_keep`, t counts the rows that are kept.
    """
    mask, labels = kwargs.get("attention_mask"), kwargs.get("labels")
    if not isinstance(mask, Tensor) or mask.ndim != 2 or labels is None or not has_images(kwargs):
        return
    rows, predicted = _kept_rows(mask, kwargs.get("logits_to_keep")), kwargs.get("shift_labels")
    if predicted is None:
        rows, predicted = rows[..., :-1], labels[..., 1:]
    if rows.numel() != predicted.numel():  # the model's own loss says so
        return
    ignored = kwargs.get("ignore_index", -100)
    read = predicted.reshape(rows.shape).to(rows.device) != ignored
    count = int(((rows == 0) & read).sum())
    if count:
        raise PolicyError(
            f"{count} label(s) would be predicted from padding, which a policy does not compute; "
            f"set labels of padding, and of the first token after padding, to {ignored}"
        )


def _kept_rows(mask: Tensor, kept: Any) -> Tensor:
    """Return the part of a mask [B, S] whose logits a model returns, by its `logits_to_keep`."""
    if isinstance(kept, int):
        return mask[:, -kept:]
    if not isinstance(kept, Tensor):
        return mask
    kept = kept.to(mask.device)
    if kept.ndim < 2:
        return mask[:, kept]
    return mask[kept] if kept.dtype == torch.bool else mask.gather(1, kept)


def has_images(kwargs: dict[str, Any]) -> bool:
    """Return whether the trunk receives images or videos, as pixels or as features."""
    encoded = kwargs.get("mm_encoder_outputs") or {}
    pixels = [kwargs.get(name) for name in ("pixel_values", "pixel_values_videos")]
    given = [*pixels, *(encoded.get(modality) for modality in ("image", "video"))]
    return any(each is not None for each in given)


@contextmanager
def checked_placeholders(trunk: Any, family: ModelFamily, block: Block) -> Iterator[None]:
    """Raise PolicyError inside the block if the prompt's visual tokens do not match its images.

    Also if they are merged by a forward of the trunk that was looked up before the block.

    Raises:
        ModelError: The trunk merges images in a way that is not known.
    """
    merger = next((name for name in _MERGERS if hasattr(trunk, name)), None)
    if merger is None:
        raise ModelError(
            f"a {type(trunk).__name__} has none of {', '.join(_MERGERS)}, which compare the "
            "placeholders of a prompt with its images; use a model of a family in docs/families.md"
        )
    stock = getattr(trunk, merger)

    def checked(*args: Any, **kwargs: Any) -> Any:
        if not block.runs_here():
            raise PolicyError(
                "images were merged by a forward of the trunk from before the `with` block or "
                "before install(), which is not pruned; call the model itself"
            )
        try:
            return stock(*args, **kwargs)
        except ValueError as error:
            given = inspect.signature(stock).bind(*args, **kwargs).arguments
            tokens = int(family.visual_positions(trunk.config, given["input_ids"]).sum())
            found = [given.get(name) for name in _FEATURES]
            features = sum(each.shape[:-1].numel() for each in found if each is not None)
            raise PolicyError(
                f"the prompt has {tokens} visual tokens, but its images give {features}; pass "
                "input_ids and pixel_values of one call of the processor"
            ) from error

    with replaced(trunk, **{merger: checked}):
        yield


# Methods of trunks that compare the placeholders of a prompt with its image features, and the names
# of these among their arguments.
_MERGERS = ("get_placeholder_mask", "inputs_merger")
_FEATURES = ("image_features", "video_features", "image_hidden_states")


def check_images(family: ModelFamily, kwargs: dict[str, Any]) -> None:
    """Raise PolicyError unless a prompt with visual tokens comes with all inputs they need."""
    if not has_images(kwargs):
        raise PolicyError(
            "the prompt has image placeholders but no image is given; pass pixel_values, or leave "
            "an assistant model as it is, because generate() gives it no images"
        )
    check_image_positions(family, kwargs)


def check_image_positions(family: ModelFamily, kwargs: dict[str, Any]) -> None:
    """Raise PolicyError if the model would take images for text, in positions or in attention.

    Args:
        family: The model's family.
        kwargs: Arguments of a caller. generate() adds position_ids of its own, so that those of a
            step say nothing about the caller's.
    """
    if family.attends == "prompt" and kwargs.get("token_type_ids") is None:
        raise PolicyError(
            f"without token_type_ids, padding decides what tokens of {echo(family.model_type)} "
            "attend to; pass all outputs of the processor"
        )
    wanted = family.positions_from
    if wanted is None or kwargs.get("position_ids") is not None:
        return
    if kwargs.get(wanted) is None:
        raise PolicyError(
            f"without {wanted} models of type {echo(family.model_type)} give images the positions "
            "of text; pass all outputs of the processor, or position_ids"
        )
