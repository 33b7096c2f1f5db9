"""`with policy.apply(model):` - the hooks that turn a stock model into a pruned one and back.

A hook before the trunk swaps the empty cache of a prefill for a PrunedCache; one before the decoder
ranks the visual tokens and writes the plan into it; the decoder layers follow the plan. All state
of a prefill lives in its cache, so threads, beams and later calls with a returned cache do not mix.

What rankers need of the vision tower is attached to the tower's output: generate() runs the tower
before the trunk and hands its output on, a plain forward runs it inside the trunk.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor, nn
from transformers.cache_utils import DynamicCache, DynamicLayer

from opsearch.errors import PolicyError
from opsearch.policy import Policy
from opsearch.rankers import Ranker, make_ranker
from opsearch.rankers.prompt import Prompt
from opsearch.runtime.adapters import Adapter, check_supported
from opsearch.runtime.cache import PrunedCache
from opsearch.runtime.layer import pruned_forward
from opsearch.runtime.plan import Plan, build_plan

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_pruned: WeakSet[nn.Module] = WeakSet()
# What hooks inside the vision tower found in the tower's latest forward of this thread.
_captured: ContextVar[dict[str, Tensor] | None] = ContextVar("opsearch_captured", default=None)
_ATTACHED = "opsearch_captured"
_MANY_TOKENS = 10**6  # more than any sample has: to see which counts can be partial


@contextmanager
def apply_policy(model: PreTrainedModel, policy: Policy) -> Iterator[PreTrainedModel]:
    """Inside the block `model` prefills with `policy`; outside it is the stock model again.

    Raises PolicyError when the policy does not fit the model, or another one is already applied,
    and ModelError when the model cannot be pruned. The identity policy installs nothing at all.
    """
    adapter = check_supported(model)
    check_fits(policy, model.config)
    if model in _pruned:
        raise PolicyError(
            "a policy is already applied to this model; leave that `with` block before the next"
        )
    if (
        all(count == 1 for triple in policy.counts for count in triple)
        and policy.unit == "fraction"
    ):
        yield model
        return
    ranker = policy_ranker(policy)
    with ExitStack() as stack:
        stack.enter_context(patched_layers(model, adapter))
        needs = ranker.needs if ranker else ()
        for handle in adapter.capture(model, needs, _store):
            stack.callback(handle.remove)
        trunk, decoder = model.get_submodule(adapter.trunk), model.get_submodule(adapter.decoder)
        tower = model.get_submodule(adapter.vision_tower)
        hooks = _Hooks(model, adapter, policy, ranker)
        for handle in (
            tower.register_forward_pre_hook(_before_tower),
            tower.register_forward_hook(_after_tower),
            trunk.register_forward_pre_hook(hooks.before_trunk, with_kwargs=True),
            trunk.register_forward_hook(hooks.after_trunk, with_kwargs=True, always_call=True),
            decoder.register_forward_pre_hook(hooks.before_decoder, with_kwargs=True),
        ):
            stack.callback(handle.remove)
        yield model


@contextmanager
def patched_layers(model: Any, adapter: Adapter) -> Iterator[None]:
    """Decoder layers that follow the plan of a PrunedCache; with any other cache they are stock."""
    _pruned.add(model)
    layers = list(model.get_submodule(adapter.decoder).layers)
    own = [layer.__dict__.get("forward") for layer in layers]
    try:
        for index, layer in enumerate(layers):
            layer.forward = pruned_forward(layer, index, layer.forward)
        yield
    finally:
        for layer, previous in zip(layers, own, strict=True):
            if previous is None:
                layer.__dict__.pop("forward", None)
            else:
                layer.forward = previous
        _pruned.discard(model)


def check_fits(policy: Policy, config: Any) -> None:
    """Raise PolicyError unless the policy fits the family and number of layers of this config."""
    family, layers = config.model_type, config.get_text_config().num_hidden_layers
    if policy.model_type not in (None, family):
        raise PolicyError(
            f"the policy was searched for family {policy.model_type!r}, the model is {family!r}; "
            "search one for this family"
        )
    if policy.num_layers != layers:
        raise PolicyError(
            f"the policy has {policy.num_layers} layers, the model's decoder has {layers}; "
            "search a policy for this model"
        )


def policy_ranker(policy: Policy) -> Ranker | None:
    """The ranker that acts before the decoder, None where the order never matters."""
    live = policy.live(_MANY_TOKENS)
    partial = set(live[(live > 0) & (live < _MANY_TOKENS)].tolist())
    inside = [f"{spec} before layer {r}" for r, spec in policy.rankers if r > 0]
    if inside:
        raise PolicyError(
            f"rankers inside the decoder are not supported yet ({', '.join(inside)}); "
            "use one before layer 0"
        )
    if not partial:
        return None
    if not policy.rankers:
        raise PolicyError(
            f"policy {policy.name} keeps a part of the visual tokens but names no ranker that says "
            "which; give it one, e.g. RankerSpec('uniform')"
        )
    ranker = make_ranker(policy.rankers[0][1])
    if len(partial) > 1 and not ranker.nested:
        raise PolicyError(
            f"ranker {policy.rankers[0][1]} gives another order for each count, but the policy "
            f"uses {len(partial)} different ones; use a nested ranker such as cls or random"
        )
    return ranker


def rank_and_plan(prompt: Prompt, policies: Sequence[Policy], ranker: Ranker | None) -> Plan:
    """The plan of a batch whose row b follows policies[b]; all share one ranker."""
    pairs = list(zip(policies, prompt.n_visual, strict=True))
    counts = np.stack([policy.executed(n) for policy, n in pairs])
    rank = torch.where(prompt.visual, 0, -1)
    if ranker is not None:
        kept = [
            int(row[row < n].max(initial=0)) for row, n in zip(counts, prompt.n_visual, strict=True)
        ]
        rank = ranker.rank(prompt, kept)
    return build_plan(prompt.visual, prompt.real, rank, counts)


def _store(name: str, value: Tensor) -> None:
    found = _captured.get()
    if found is not None:
        found[name] = value


def _before_tower(tower: nn.Module, args: Any) -> None:
    _captured.set({})


def _after_tower(tower: nn.Module, args: Any, output: Any) -> None:
    if not isinstance(output, tuple):
        setattr(output, _ATTACHED, _captured.get())


def _per_row(values: Tensor, n_visual: Sequence[int]) -> Tensor:
    """Values of all visual tokens, repeated as generate() repeats its samples for beams."""
    copies = sum(n_visual) // len(values)
    if copies == 1:
        return values
    parts = values.split(list(n_visual[::copies]))
    return torch.cat([part for part in parts for _ in range(copies)])


class _Hooks:
    """The three hooks of one `with` block; they keep no state of a prefill."""

    def __init__(self, model: Any, adapter: Adapter, policy: Policy, ranker: Ranker | None) -> None:
        self.model, self.adapter, self.policy, self.ranker = model, adapter, policy, ranker

    def before_trunk(self, trunk: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        if args:
            named = inspect.signature(trunk.forward).bind_partial(*args).arguments
            kwargs, args = {**named, **kwargs}, ()
        cache, input_ids = kwargs.get("past_key_values"), kwargs.get("input_ids")
        encoded = (kwargs.get("mm_encoder_outputs") or {}).get("image")
        if cache is not None and cache.get_seq_length() > 0:
            if kwargs.get("pixel_values") is not None or encoded is not None:
                raise PolicyError(
                    "new images on a cache that already holds a prompt cannot be pruned; start "
                    "from an empty cache with the whole conversation"
                )
            return args, kwargs
        _check_prefill(cache, input_ids, kwargs, self.model.config)
        prompt = make_prompt(self.model, self.adapter, input_ids, kwargs.get("attention_mask"))
        if all(self.policy.is_identity(n) for n in prompt.n_visual):
            return args, kwargs
        if kwargs.get("pixel_values") is None and encoded is None:
            raise PolicyError(
                "the prompt has places for images but no image is given; pass pixel_values"
            )
        store = kwargs.get("use_cache")
        store = self.model.config.get_text_config().use_cache if store is None else store
        pruned = PrunedCache.take_over(cache, self.policy.num_layers, store)
        pruned.prompt = prompt
        _captured.set(getattr(encoded, _ATTACHED, None))
        return args, {**kwargs, "past_key_values": pruned}

    def before_decoder(self, decoder: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        cache = kwargs.get("past_key_values")
        if isinstance(cache, PrunedCache) and cache.prompt is not None:
            prompt, cache.prompt = cache.prompt, None
            found = _captured.get() or {}
            prompt.captured |= {k: _per_row(v, prompt.n_visual) for k, v in found.items()}
            self._check_captured(prompt)
            policies = [self.policy] * len(prompt.n_visual)
            cache.plan = rank_and_plan(prompt, policies, self.ranker)

    def after_trunk(self, trunk: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        _captured.set(None)
        cache = getattr(output, "past_key_values", None)
        if isinstance(cache, PrunedCache) and not cache.pruned[0].store:
            output.past_key_values = None
        return output

    def _check_captured(self, prompt: Prompt) -> None:
        missing = (self.ranker.needs if self.ranker else frozenset()) - prompt.captured.keys()
        if missing:
            raise PolicyError(
                f"the ranker needs {', '.join(sorted(missing))}, but the image features were "
                "computed outside the `with` block; pass pixel_values inside it"
            )


def make_prompt(
    model: Any, adapter: Adapter, input_ids: Any, attention_mask: Tensor | None
) -> Prompt:
    """The prompt's visual and real positions; the one place that waits for the device."""
    visual = adapter.visual_positions(model.config, input_ids)
    real = torch.ones_like(visual) if attention_mask is None else attention_mask.bool()
    last = (real * torch.arange(1, real.shape[1] + 1, device=real.device)).argmax(1, keepdim=True)
    *n_visual, at_end = torch.cat([visual.sum(1), visual.gather(1, last).sum()[None]]).tolist()
    if at_end:
        raise PolicyError(
            "a prompt ends with an image, where a policy computes no answer; put the text after "
            "the image"
        )
    return Prompt(visual, real, tuple(n_visual))


def _check_prefill(cache: Any, input_ids: Any, kwargs: dict[str, Any], config: Any) -> None:
    if input_ids is None:
        raise PolicyError(
            "pruning finds the visual tokens by input_ids, but only inputs_embeds were given; pass "
            "input_ids and pixel_values"
        )
    plain = type(cache) in (DynamicCache, PrunedCache) and not cache.offloading
    plain = plain and all(isinstance(layer, DynamicLayer) for layer in cache.layers)
    if cache is not None and not plain:
        kind = "n offloaded" if getattr(cache, "offloading", False) else ""
        raise PolicyError(
            f"a{kind} {type(cache).__name__} cannot hold layers of different length; leave out "
            "cache_implementation or pass a DynamicCache"
        )
    mask = kwargs.get("attention_mask")
    if mask is not None and mask.shape != input_ids.shape:
        raise PolicyError(
            f"attention_mask has shape {tuple(mask.shape)}, pruning needs that of input_ids "
            f"{tuple(input_ids.shape)}; pass the processor's attention_mask"
        )
    for wanted in ("output_hidden_states", "output_attentions"):
        if kwargs.get(wanted) or getattr(config.get_text_config(), wanted, False):
            raise PolicyError(
                f"{wanted}=True is not available under a policy: its layers work on different "
                "rows; ask the original model"
            )
