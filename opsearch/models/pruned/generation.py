"""Calls of generate() inside a block: answers equal greedy decoding with a cache, or an error.

A prefill ranks the visual tokens. generate() must therefore prefill a prompt once, whole, without
any tokens after it where a ranker reads text, and wholly inside the block.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

from transformers import StoppingCriteria, StoppingCriteriaList

from opsearch.errors import PolicyError, echo
from opsearch.models.families import ModelFamily
from opsearch.models.handles import replaced
from opsearch.models.pruned.block import Block
from opsearch.models.pruned.checks import (
    check_image_positions,
    continuous_batching_error,
    has_images,
)
from opsearch.models.pruned.execution import Executions
from opsearch.policy.policy import Policy
from opsearch.rankers.base import CLIP_QUESTION, TEXT_NEEDS
from opsearch.rankers.of_policy import decoder_needs

# The block in which this thread's generate() began.
_began: ContextVar[Block | None] = ContextVar("opsearch_generation", default=None)

_CACHES = (None, "dynamic", "hybrid")  # transformers ignores "hybrid"
_CUTS = "it may cut an image, and rankings need the whole prompt; leave out {}"
_DRAWS_FROM_ITSELF = (
    "the model under the policy cannot draft its own tokens; leave out {}, or give it an "
    "assistant_model"
)
_FROM_THE_HUB = "code from the hub may prefill a prompt more than once; leave out {}"
# Settings of generate() that change when a prompt is prefilled, or what generates.
_REFUSED = {
    "prefill_chunk_size": _CUTS,
    "assistant_early_exit": _DRAWS_FROM_ITSELF,
    "use_mtp": _DRAWS_FROM_ITSELF,
    "speculation_type": _DRAWS_FROM_ITSELF,
    "penalty_alpha": _FROM_THE_HUB,
    "dola_layers": _FROM_THE_HUB,
    "constraints": _FROM_THE_HUB,
    "force_words_ids": _FROM_THE_HUB,
    "num_beam_groups": _FROM_THE_HUB,
    "custom_generate": _FROM_THE_HUB,  # a function is the caller's own loop
}


@contextmanager
def guarded_generation(
    model: Any,
    family: ModelFamily,
    policies: Sequence[Policy],
    executions: Executions,
    block: Block,
) -> Iterator[None]:
    """Check every call of generate() inside the block, see the module's description."""
    reads_text = _text_readers(policies, executions)
    generate = _guarded_generate(model, family, reads_text, block)
    prepare = _guarded_steps(model.prepare_inputs_for_generation, reads_text, block)
    with replaced(
        model,
        generate=generate,
        prepare_inputs_for_generation=prepare,
        init_continuous_batching=_refuse_continuous_batching,
    ):
        yield


def _text_readers(policies: Sequence[Policy], executions: Executions) -> str | None:
    """Return the rankers and the selector that appended text would change, in words, or None."""
    found = []
    for policy, execution in zip(policies, executions.each, strict=True):
        asked = _reads_text(execution.needs)
        inside = bool(decoder_needs(policy))
        found += [str(s) for _, s in policy.rankers if (s.inside and inside) or asked]
    if executions.selector and _reads_text(executions.selector.needs):
        found.append("the selector")
    return ", ".join(dict.fromkeys(found)) or None


def _reads_text(needs: Iterable[str]) -> bool:
    return any(need in TEXT_NEEDS or need.startswith(CLIP_QUESTION) for need in needs)


class _InBlock(StoppingCriteria):
    """Never stops; raises PolicyError at the first step after the block's end."""

    def __init__(self, block: Block) -> None:
        self.block = block

    def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
        self.block.check()
        return False


def _guarded_generate(
    model: Any, family: ModelFamily, reads_text: str | None, block: Block
) -> Callable[..., Any]:
    stock = model.generate
    signature = inspect.signature(stock)

    @wraps(stock)
    def generate(*args: Any, **kwargs: Any) -> Any:
        given = _by_name(signature, args, kwargs)
        criteria = StoppingCriteriaList(given.get("stopping_criteria") or ())
        criteria.append(_InBlock(block))
        call = _with_argument(signature.bind(*args, **kwargs), "stopping_criteria", criteria)
        token = _began.set(block)
        try:
            with block.call():
                _check_settings(model, given, reads_text)
                if has_images(given):
                    check_image_positions(family, given)
                return stock(*call.args, **call.kwargs)
        except PolicyError:
            # Its reader waits in another thread, for ever unless the stream ends.
            if given.get("streamer") is not None:
                given["streamer"].end()
            raise
        finally:
            _began.reset(token)

    return generate


def _by_name(signature: inspect.Signature, args: Any, kwargs: Any) -> dict[str, Any]:
    """Return the arguments of a call by name."""
    found = signature.bind(*args, **kwargs).arguments
    return {**found, **kwargs}


def _with_argument(call: inspect.BoundArguments, name: str, value: Any) -> inspect.BoundArguments:
    """Set an argument of a call, also if only **kwargs take it."""
    parameters = call.signature.parameters
    if name in parameters:
        call.arguments[name] = value
    else:
        (rest,) = (p.name for p in parameters.values() if p.kind is p.VAR_KEYWORD)
        call.arguments[rest] = {**call.arguments.get(rest, {}), name: value}
    return call


def _check_settings(model: Any, given: dict[str, Any], reads_text: str | None) -> None:
    """Raise PolicyError if a setting of generate() could change the ranking."""

    def setting(name: str) -> Any:
        for source in (given.get("generation_config"), model.generation_config):
            if name not in given and (value := getattr(source, name, None)) is not None:
                return value
        return given.get(name)

    implementation = setting("cache_implementation")
    if implementation not in _CACHES:
        raise PolicyError(
            f"cache_implementation={echo(implementation)} cannot hold layers of different length; "
            "leave it out or pass a plain DynamicCache"
        )
    if not has_images(given):
        return
    for name, reason in _REFUSED.items():
        value = setting(name)
        if value and not callable(value) and (name, value) != ("num_beam_groups", 1):
            raise PolicyError(
                f"{name}={echo(value)} is not available under a policy: {reason.format(name)}"
            )
    for name in ("assistant_model", "prompt_lookup_num_tokens"):
        if reads_text and setting(name):
            raise PolicyError(
                f"with {name} proposed tokens stand after the prompt when {reads_text} ranks, "
                f"which changes the answer; leave out {name} or choose a ranker that reads no text"
            )


def _guarded_steps(
    stock: Callable[..., Any], reads_text: str | None, block: Block
) -> Callable[..., Any]:
    """Return `prepare_inputs_for_generation`, which every step of generate() calls, with checks."""

    @wraps(stock)
    def prepare(*args: Any, **kwargs: Any) -> Any:
        cache = kwargs.get("past_key_values")
        if has_images(kwargs) and (cache is None or cache.get_seq_length() == 0):
            _check_prefill(kwargs, reads_text, block)
        return stock(*args, **kwargs)

    return prepare


def _check_prefill(kwargs: dict[str, Any], reads_text: str | None, block: Block) -> None:
    """Raise PolicyError unless a prefill of generate() gives the answers of a policy."""
    if _began.get() is not block:
        raise PolicyError(
            "this generate() began outside of the `with` block, or is a reference from before it "
            "or from before install(); call model.generate under the policy"
        )
    if reads_text and kwargs.get("use_cache") is False:
        raise PolicyError(
            f"without a cache {reads_text} ranks anew at every step, by the tokens generated so "
            "far, which changes the answer; pass use_cache=True"
        )
    mask = kwargs.get("attention_mask")
    # An empty prompt is refused by the trunk.
    if mask is not None and mask.ndim == 2 and not mask[:, -1:].all():
        raise PolicyError(
            "prompts are padded on the right, where the first token of the answer would come from "
            "padding; pad on the left, with padding_side='left'"
        )


def _refuse_continuous_batching(*args: Any, **kwargs: Any) -> Any:
    raise continuous_batching_error()
