"""Processing of prompts under a policy: visual tokens that no layer needs are dropped at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from vllm.multimodal.inputs import PlaceholderRange

from opsearch.errors import PolicyError
from opsearch.serving.identifiers import mark
from opsearch.serving.served_policy import ServedPolicy, n_positions, policy_of
from opsearch.serving.shrink import ImageSpan, embedded_rows, shrink


def pruned_processor(factory: Callable[..., Any]) -> Callable[..., Any]:
    """Return a factory of a family's processor that shortens prompts under a policy.

    Args:
        factory: The family's own, a class or a function.
    """

    def build(info: Any, dummy_inputs: Any) -> Any:
        processor = factory(info, dummy_inputs)
        served = policy_of(info.ctx.get_hf_config())
        if served is not None:
            _shorten_prompts(processor, served)
        return processor

    return build


def _shorten_prompts(processor: Any, served: ServedPolicy) -> None:
    """Make a processor shorten the prompts of requests, but not those that measure its sizes."""
    stock, stock_dummy = processor.apply, processor.get_dummy_mm_inputs

    def apply(*args: Any, **kwargs: Any) -> Any:
        return shortened(stock(*args, **kwargs), served, processor.info.ctx)

    def dummy(*args: Any, **kwargs: Any) -> Any:
        processor.apply = stock
        try:
            return stock_dummy(*args, **kwargs)
        finally:
            processor.apply = apply

    processor.apply, processor.get_dummy_mm_inputs = apply, dummy


def shortened(processed: Any, served: ServedPolicy, ctx: Any) -> Any:
    """Return a processed prompt with only the visual tokens that enter the decoder.

    Args:
        processed: vLLM's MultiModalInput.
        served: The policy.
        ctx: Context of the family's processor.

    Raises:
        PolicyError: The prompt cannot be served under the policy.
    """
    places, hashes = dict(processed["mm_placeholders"]), dict(processed["mm_hashes"])
    others = [kind for kind, ranges in places.items() if kind != "image" and ranges]
    if others:
        raise PolicyError(
            f"a policy is served for images only, but the prompt has {others[0]} input; send it "
            "to a server without a policy"
        )
    if not places.get("image"):
        return processed
    tokens = processed["prompt_token_ids"]
    images = [ImageSpan(each.offset, embedded_rows(each)) for each in places["image"]]
    counts = [image.n_visual for image in images]
    _check_prompt(tokens, images, served, ctx.model_config)
    shorter, spans = shrink(tokens, images, served.entering)
    places["image"] = [_range(span) for span in spans]
    pairs = zip(hashes["image"], counts, strict=True)
    hashes["image"] = [mark(each, n_visual) for each, n_visual in pairs]
    return {
        **processed,
        "prompt_token_ids": shorter,
        "mm_placeholders": places,
        "mm_hashes": hashes,
    }


def _range(span: ImageSpan) -> PlaceholderRange:
    whole = bool(span.embedded.all())
    return PlaceholderRange(span.offset, len(span.embedded), None if whole else span.embedded)


def _check_prompt(
    tokens: Sequence[int], images: Sequence[ImageSpan], served: ServedPolicy, model_config: Any
) -> None:
    """Raise PolicyError if a prompt cannot be served under the policy."""
    n_visual = sum(image.n_visual for image in images)
    last = max(image.offset + int(image.embedded.nonzero()[-1]) for image in images)
    first = min(image.offset + int(image.embedded.nonzero()[0]) for image in images)
    if last == len(tokens) - 1:
        raise PolicyError(
            "a prompt ends with an image, where a policy computes no answer; put the text after "
            "the image"
        )
    if first == 0 and served.needs_text_first(n_visual):
        raise PolicyError(
            "a prompt begins with an image, and this policy leaves a query of it no key to read; "
            "put a token before the image, e.g. the one that begins a text"
        )
    longest = n_positions(model_config.hf_config)
    if len(tokens) >= longest:
        raise PolicyError(
            f"the prompt has {len(tokens)} tokens before any is dropped, and the model has "
            f"positions for {longest}; use a smaller image or a shorter text"
        )
