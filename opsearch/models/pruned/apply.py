"""`with policy.apply(model):` replaces forwards to prune the prefill, and restores them at the end.

The trunk's forward replaces the empty cache of a prefill by a PrunedCache. The decoder's forward
ranks the visual tokens and stores the plan in that cache. The decoder layers follow the plan. All
state of a prefill lives in its cache, so concurrent threads, beam search and later calls with a
returned cache are independent of each other.

Ranker inputs captured in the vision tower are attached to the tower's output. generate() runs the
tower before the trunk and passes the output on, which accelerate copies entry by entry; a plain
forward runs the tower inside the trunk.

Under torch.compile the layers of a prefill run eagerly, because their rows depend on data; all
other calls are compiled as in the stock model.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from torch import Tensor, nn
from transformers.utils.generic import ModelOutput

from opsearch.errors import PolicyError
from opsearch.models.clip import read_question
from opsearch.models.decoder import Decoder
from opsearch.models.deepstack import DEEPSTACK, added_features
from opsearch.models.devices import forward_name
from opsearch.models.families import ModelFamily
from opsearch.models.handles import replaced
from opsearch.models.pruned.block import Block, not_copied
from opsearch.models.pruned.cache import PrunedCache
from opsearch.models.pruned.captures import Captures
from opsearch.models.pruned.checks import (
    check_fits,
    check_images,
    check_labels,
    check_prefill,
    checked_placeholders,
    has_images,
)
from opsearch.models.pruned.compilation import eager, eager_frame
from opsearch.models.pruned.cuda_graphs import Graphs
from opsearch.models.pruned.execution import Executions, Selector, all_executions
from opsearch.models.pruned.generation import guarded_generation
from opsearch.models.pruned.layer import pruned_forward
from opsearch.models.pruned.plan import Plan
from opsearch.models.pruned.ranking import plan_inputs, read_prompt
from opsearch.models.supported import check_supported
from opsearch.policy.policy import Policy
from opsearch.registry.failures import naming_parts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Decoders with a policy applied; a decoder is the same object in every wrapper of its model.
_pruned: WeakSet[nn.Module] = WeakSet()
_pruned_lock = threading.Lock()
# Ranker inputs captured in the vision tower for this thread's prefill, or in its latest forward.
_captured: ContextVar[Captures | None] = ContextVar("opsearch_captured", default=None)
# Last rows whose logits this thread's forward returns; 0 for all, also without the model's head.
_rows: ContextVar[Any] = ContextVar("opsearch_rows", default=0)


@contextmanager
def apply_policies(
    model: PreTrainedModel,
    policies: Sequence[Policy],
    graphs: Graphs | None = None,
    selector: Selector | None = None,
) -> Iterator[PreTrainedModel]:
    """Prune the prefills of `model` inside the block; restore the model on exit.

    The identity policy alone installs no hooks.

    Args:
        model: Model with its language-model head.
        policies: Policies with as many layers as the decoder, of which each sample runs one.
        graphs: CUDA graphs that launch all layers of a prefill at once; None for eager execution.
        selector: Chooses among several policies; None: there is one.

    Raises:
        PolicyError: A policy does not fit the model, or another policy is already applied.
        ModelError: The model cannot be pruned.
    """
    family = check_supported(model)
    for policy in policies:
        check_fits(policy, model.config)
    if graphs is not None:
        graphs.check(model, Decoder.of(model, family))
    if model.get_submodule(family.decoder) in _pruned:
        raise _already_applied()
    if all(map(_prunes_nothing, policies)):
        yield model
        return
    answer, all_rows = all_executions(model, family, policies, selector)
    block = Block()
    with ExitStack() as stack:
        stack.enter_context(patched_layers(model, family, graphs))
        trunk, decoder = model.get_submodule(family.trunk), model.get_submodule(family.decoder)
        for module in (model, decoder):
            stack.enter_context(not_copied(module))
        for handle in family.capture(model, answer.needs | all_rows.needs, _store):
            stack.callback(handle.remove)
        tower = model.get_submodule(family.vision_tower)
        stack.enter_context(checked_placeholders(trunk, family, block))
        stack.enter_context(guarded_generation(model, family, policies, answer, block))
        prefills = _Prefills(model, family, answer, all_rows, graphs is not None)
        for handle in (
            tower.register_forward_pre_hook(_before_tower),
            tower.register_forward_hook(_after_tower),
        ):
            stack.callback(handle.remove)
        # From the inside out: a prefill of another thread that meets the outer ones meets all.
        for module, forward in (
            (decoder, prefills.planned(decoder.forward)),
            (trunk, prefills.guarded(trunk.forward, block)),
            (model, _guarded_model(model.forward, block)),
        ):
            stack.enter_context(replaced(module, forward=forward))
        stack.callback(block.end)
        yield model
        block.end()
        block.check_finished()


@contextmanager
def patched_layers(model: Any, family: ModelFamily, graphs: Graphs | None) -> Iterator[None]:
    """Let the decoder layers follow the plan of a PrunedCache; other caches run stock layers."""
    decoder = Decoder.of(model, family)
    with _pruned_lock:
        if decoder.module in _pruned:
            raise _already_applied()
        _pruned.add(decoder.module)
    try:
        with ExitStack() as stack:
            for index, layer in enumerate(decoder.module.layers):
                name = forward_name(layer)
                pruned = pruned_forward(decoder.layers[index], index, getattr(layer, name))
                if graphs is not None:
                    pruned = graphs.forward(decoder.layers, index, pruned)
                stack.enter_context(replaced(layer, **{name: pruned}))
            yield
    finally:
        _pruned.discard(decoder.module)


def _prunes_nothing(policy: Policy) -> bool:
    every = (count for triple in policy.counts for count in triple)
    return policy.unit == "fraction" and all(count == 1 for count in every)


def _already_applied() -> PolicyError:
    return PolicyError(
        "a policy is already applied to this model; leave its `with` block, or call remove() of "
        "its handle, before the next"
    )


def _store(name: str, value: Tensor) -> None:
    found = _captured.get()
    if found is not None:
        found.runs[-1][name] = value


def _before_tower(tower: nn.Module, args: Any) -> None:
    found = _captured.get()
    if found is None or not found.in_prefill:
        found = Captures()
        _captured.set(found)
    found.runs.append({})


def _after_tower(tower: nn.Module, args: Any, output: Any) -> None:
    found = _captured.get()
    if found is not None and isinstance(output, ModelOutput):
        found.attach(output)


def _guarded_model(stock: Callable[..., Any], block: Block) -> Callable[..., Any]:
    """Return a forward of the model that ends inside the block and checks its labels."""
    signature = inspect.signature(stock)

    @eager_frame
    @wraps(stock)
    def forward(*args: Any, **kwargs: Any) -> Any:
        with block.call():
            kwargs = _named(signature, args, kwargs)
            check_labels(kwargs)
            token = _rows.set(kwargs.get("logits_to_keep", 0))
            try:
                return stock(**kwargs)
            finally:
                _rows.reset(token)

    return forward


def _named(signature: inspect.Signature, args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a call by name."""
    return {**signature.bind_partial(*args).arguments, **kwargs} if args else kwargs


class _Prefills:
    """Prefills of one `with` block, without any state of a single one."""

    def __init__(
        self,
        model: Any,
        family: ModelFamily,
        answer: Executions,
        all_rows: Executions,
        use_graphs: bool,
    ) -> None:
        self.model, self.family, self.use_graphs = model, family, use_graphs
        self.answer, self.all_rows = answer, all_rows

    def guarded(self, stock: Callable[..., Any], block: Block) -> Callable[..., Any]:
        """Return a forward of the trunk that prunes prefills, and ends inside the block."""
        signature = inspect.signature(stock)

        @eager_frame
        @wraps(stock)
        def forward(*args: Any, **kwargs: Any) -> Any:
            with block.call(), naming_parts():
                try:
                    kwargs = self.before_trunk(_named(signature, args, kwargs))
                    return after_trunk(kwargs, stock(**kwargs))
                finally:
                    _captured.set(None)

        return forward

    @eager
    def before_trunk(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """Give a prefill with images a PrunedCache; raise PolicyError if it cannot be pruned."""
        cache, input_ids = kwargs.get("past_key_values"), kwargs.get("input_ids")
        if cache is not None and cache.get_seq_length() > 0:
            if has_images(kwargs):
                raise PolicyError(
                    "new images on a cache that already holds a prompt cannot be pruned; start "
                    "from an empty cache with the whole conversation, without prefill_chunk_size"
                )
            return kwargs
        check_prefill(cache, input_ids, kwargs, self.model.config)
        prompt, visual_rows = read_prompt(self.model, self.family, kwargs, _rows.get())
        executions = self.all_rows if visual_rows else self.answer
        store = kwargs.get("use_cache")
        store = self.model.config.get_text_config().use_cache if store is None else store
        if all(map(executions.are_identity, prompt.n_visual)):
            if isinstance(cache, PrunedCache):  # left by a prefill that raised an error
                PrunedCache.convert(cache, self.layers, store)
            return kwargs
        check_images(self.family, kwargs)
        executions.check()
        pruned = PrunedCache.convert(cache, self.layers, store)
        pruned.prompt, pruned.executions = prompt, executions
        read_question(self.model, executions.needs, prompt, kwargs["input_ids"])
        _captured.set(Captures.of_prefill(self.model, self.family, kwargs))
        return {**kwargs, "past_key_values": pruned}

    def planned(self, stock: Callable[..., Any]) -> Callable[..., Any]:
        """Return a forward of the decoder that plans a prefill before its layers run."""

        @wraps(stock)
        def forward(*args: Any, **kwargs: Any) -> Any:
            cache = kwargs.get("past_key_values")
            if isinstance(cache, PrunedCache) and cache.prompt is not None:
                return self.prefill(stock, *args, **kwargs)
            return stock(*args, **kwargs)

        return forward

    @eager
    def prefill(self, decoder: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Rank the visual tokens, store the plan or a graph's inputs, and run the decoder.

        The plan takes over the visual features that the decoder would add behind its first layers.
        """
        cache: PrunedCache = kwargs["past_key_values"]
        prompt, executions = cache.prompt, cache.executions
        assert prompt is not None
        assert executions is not None
        cache.prompt = cache.executions = None
        prompt.embeds = kwargs["inputs_embeds"]
        prompt.captured |= (_captured.get() or Captures()).merged(prompt)
        executions.check_captured(prompt)
        prompt = prompt.to(prompt.embeds.device)
        added = added_features(kwargs)
        inputs = plan_inputs(prompt, executions.of_samples(prompt), added)
        if self.use_graphs:
            cache.plan_inputs = inputs
        else:
            cache.plan = Plan(inputs)
        return decoder(*args, **({**kwargs, DEEPSTACK: None} if added else kwargs))

    @property
    def layers(self) -> int:
        """Number of layers of the decoder."""
        return len(self.model.get_submodule(self.family.decoder).layers)


def after_trunk(kwargs: dict[str, Any], output: Any) -> Any:
    """Drop the cache if the caller wants none; raise PolicyError if the plan was not used."""
    given = kwargs.get("past_key_values")
    if isinstance(given, PrunedCache):
        given.check_consumed()
        if not given.pruned[0].store:
            if isinstance(output, tuple):
                return tuple(each for each in output if each is not given)
            return type(output)(**{k: v for k, v in output.items() if v is not given})
    return output
