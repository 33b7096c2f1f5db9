"""`with policy.apply(model):` installs hooks that prune the prefill, and removes them at the end.

A hook before the trunk replaces the empty cache of a prefill by a PrunedCache. A hook before the
decoder ranks the visual tokens and stores the plan in that cache. The decoder layers follow the
plan. All state of a prefill lives in its cache, so concurrent threads, beam search and later calls
with a returned cache are independent of each other.

Ranker inputs captured in the vision tower are attached to the tower's output. generate() runs the
tower before the trunk and passes the output on, which accelerate copies entry by entry; a plain
forward runs the tower inside the trunk.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

from opsearch.errors import PolicyError
from opsearch.models.clip import read_question
from opsearch.models.devices import forward_name
from opsearch.models.families import ModelFamily, check_supported
from opsearch.models.loading import unpack
from opsearch.models.pruned.cache import PrunedCache
from opsearch.models.pruned.checks import (
    check_fits,
    check_images,
    check_prefill,
    checked_placeholders,
    has_images,
)
from opsearch.models.pruned.cuda_graphs import Graphs
from opsearch.models.pruned.layer import pruned_forward
from opsearch.models.pruned.plan import Plan
from opsearch.models.pruned.ranking import (
    ResolvedPolicy,
    make_prompt,
    plan_inputs,
    repeat_for_beams,
)
from opsearch.policy.policy import Policy
from opsearch.rankers.base import PROMPT_NEEDS, Prompt, Ranker
from opsearch.rankers.of_policy import decoder_needs, policy_ranker

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Decoders with a policy applied; a decoder is the same object in every wrapper of its model.
_pruned: WeakSet[nn.Module] = WeakSet()
_pruned_lock = threading.Lock()
# Ranker inputs captured in this thread's latest forward of the vision tower.
_captured: ContextVar[dict[str, Tensor] | None] = ContextVar("opsearch_captured", default=None)
_ATTACHED, _MARK = "opsearch_captured", "opsearch_policy"


@contextmanager
def apply_policy(
    model: PreTrainedModel, policy: Policy, graphs: Graphs | None = None
) -> Iterator[PreTrainedModel]:
    """Prune the prefills of `model` by `policy` inside the block; restore the model on exit.

    The identity policy installs no hooks.

    Args:
        model: Model with its language-model head.
        policy: Policy with as many layers as the decoder.
        graphs: CUDA graphs that launch all layers of a prefill at once; None for eager execution.

    Raises:
        PolicyError: The policy does not fit the model, or another policy is already applied.
        ModelError: The model cannot be pruned.
    """
    family = check_supported(model)
    check_fits(policy, model.config)
    if graphs is not None:
        graphs.check(model)
    if model.get_submodule(family.decoder) in _pruned:
        raise _already_applied()
    if (
        all(count == 1 for triple in policy.counts for count in triple)
        and policy.unit == "fraction"
    ):
        yield model
        return
    unpack(model)
    ranker = policy_ranker(policy)
    family.check_needs(model.config, decoder_needs(policy))
    with ExitStack() as stack:
        stack.enter_context(patched_layers(model, family, graphs))
        needs = ranker.needs if ranker else frozenset[str]()
        for handle in family.capture(model, needs, _store):
            stack.callback(handle.remove)
        trunk, decoder = model.get_submodule(family.trunk), model.get_submodule(family.decoder)
        tower = model.get_submodule(family.vision_tower)
        stack.enter_context(checked_placeholders(trunk, family))
        hooks = _Hooks(model, family, policy, ranker, graphs is not None)
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
def patched_layers(model: Any, family: ModelFamily, graphs: Graphs | None) -> Iterator[None]:
    """Let the decoder layers follow the plan of a PrunedCache; other caches run stock layers."""
    decoder = model.get_submodule(family.decoder)
    layers = decoder.layers
    names = [forward_name(layer) for layer in layers]
    with _pruned_lock:
        if decoder in _pruned:
            raise _already_applied()
        _pruned.add(decoder)
    overridden = [vars(layer).get(name) for layer, name in zip(layers, names, strict=True)]
    try:
        vars(decoder)[_MARK] = NotCopyable()
        for index, (layer, name) in enumerate(zip(layers, names, strict=True)):
            pruned = pruned_forward(layer, index, getattr(layer, name))
            if graphs is not None:
                pruned = graphs.forward(layers, index, pruned)
            setattr(layer, name, pruned)
        yield
    finally:
        for layer, name, previous in zip(layers, names, overridden, strict=True):
            if previous is None:
                vars(layer).pop(name, None)
            else:
                setattr(layer, name, previous)
        vars(decoder).pop(_MARK, None)
        _pruned.discard(decoder)


class NotCopyable:
    """Attribute that makes deepcopy fail: the patched forwards of a copy would run the original."""

    def __deepcopy__(self, memo: Any) -> Any:
        raise PolicyError(
            "a model under a policy cannot be copied; copy it outside of the `with` block"
        )


def _already_applied() -> PolicyError:
    return PolicyError(
        "a policy is already applied to this model; leave that `with` block before the next"
    )


def _store(name: str, value: Tensor) -> None:
    found = _captured.get()
    if found is not None:
        found[name] = value


def _before_tower(tower: nn.Module, args: Any) -> None:
    _captured.set({})


def _after_tower(tower: nn.Module, args: Any, output: Any) -> None:
    if isinstance(output, ModelOutput):
        output[_ATTACHED] = _captured.get()


class _Hooks:
    """Trunk and decoder hooks of one `with` block, without any state of a prefill."""

    def __init__(
        self,
        model: Any,
        family: ModelFamily,
        policy: Policy,
        ranker: Ranker | None,
        use_graphs: bool,
    ) -> None:
        self.model, self.family, self.policy, self.ranker = model, family, policy, ranker
        self.use_graphs, self.resolved = use_graphs, ResolvedPolicy(policy)

    def before_trunk(self, trunk: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        """Give a prefill with images a PrunedCache; raise PolicyError if it cannot be pruned."""
        if args:
            named = inspect.signature(trunk.forward).bind_partial(*args).arguments
            kwargs, args = {**named, **kwargs}, ()
        cache, input_ids = kwargs.get("past_key_values"), kwargs.get("input_ids")
        if cache is not None and cache.get_seq_length() > 0:
            if has_images(kwargs):
                raise PolicyError(
                    "new images on a cache that already holds a prompt cannot be pruned; start "
                    "from an empty cache with the whole conversation, without prefill_chunk_size"
                )
            return args, kwargs
        check_prefill(cache, input_ids, kwargs, self.model.config)
        prompt = make_prompt(self.model, self.family, input_ids, kwargs.get("attention_mask"))
        store = kwargs.get("use_cache")
        store = self.model.config.get_text_config().use_cache if store is None else store
        if all(self.resolved.is_identity(n) for n in prompt.n_visual):
            if isinstance(cache, PrunedCache):  # left by a prefill that raised an error
                PrunedCache.convert(cache, self.policy.num_layers, store)
            return args, kwargs
        check_images(self.family, kwargs)
        pruned = PrunedCache.convert(cache, self.policy.num_layers, store)
        pruned.prompt = prompt
        if self.ranker and input_ids is not None:
            read_question(self.model, self.ranker.needs, prompt, input_ids)
        encoded = (kwargs.get("mm_encoder_outputs") or {}).get("image")
        _captured.set(getattr(encoded, _ATTACHED, None))
        return args, {**kwargs, "past_key_values": pruned}

    def before_decoder(self, decoder: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Rank the visual tokens and store the plan, or the inputs of a graph, in the cache."""
        cache = kwargs.get("past_key_values")
        if isinstance(cache, PrunedCache) and cache.prompt is not None:
            prompt, cache.prompt = cache.prompt, None
            prompt.embeds = kwargs["inputs_embeds"]
            found = _captured.get() or {}
            prompt.captured |= {k: repeat_for_beams(v, prompt.n_visual) for k, v in found.items()}
            self._check_captured(prompt)
            prompt = prompt.to(prompt.embeds.device)
            inputs = plan_inputs(prompt, self.resolved, self.ranker)
            if self.use_graphs:
                cache.plan_inputs = inputs
            else:
                cache.plan = Plan(inputs)

    def after_trunk(self, trunk: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        """Drop the cache if the caller wants none; raise PolicyError if the plan was not used."""
        _captured.set(None)
        given = kwargs.get("past_key_values")
        if output is not None and isinstance(given, PrunedCache):
            given.check_consumed()
        cache = getattr(output, "past_key_values", None)
        if isinstance(cache, PrunedCache) and not cache.pruned[0].store:
            output.past_key_values = None
        return output

    def _check_captured(self, prompt: Prompt) -> None:
        needs = self.ranker.needs if self.ranker else frozenset[str]()
        missing = needs - PROMPT_NEEDS - prompt.captured.keys()
        if missing:
            raise PolicyError(
                f"the ranker needs {', '.join(sorted(missing))}, but the image features were "
                "computed outside the `with` block; pass pixel_values inside it"
            )
