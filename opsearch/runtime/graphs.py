"""CUDA graphs of pruned prefills: all layers of a prompt are launched at once.

At batch 1 a GPU is done with a pruned layer before the host has launched the next one. A graph
holds for one shape: the prompts' length and number of visual tokens, and the policy's counts.
Vision tower, ranking before the decoder, lm_head and decoding run as they do without graphs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from opsearch.errors import ModelError, PolicyError
from opsearch.rankers.prompt import Prompt
from opsearch.runtime.cache import PrunedCache
from opsearch.runtime.places import is_hooked
from opsearch.runtime.plan import Order
from opsearch.runtime.static import Computed, Given, Static, hand_out

_MOST = 16  # shapes whose graphs and results are kept in memory
_WARM_UPS = 2  # libraries choose kernels and workspaces in their first calls
_RECORDERS = "transformers.utils.output_capturing"  # whose hooks do nothing unless asked


class Graphs:
    """CUDA graphs for `policy.apply(model, graphs=Graphs())`; later blocks can go on with them.

    The first prompt of a shape is captured, which takes a few prefills; of more than 16 shapes the
    oldest is forgotten. Weights may change in place, but not be replaced.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._found: dict[Any, tuple[Static, Callable[[], None], Computed]] = {}
        self._pool: Any = None
        self._last: torch.cuda.Event | None = None

    def check(self, model: Any) -> None:
        """Raise ModelError unless the model is where graphs are."""
        if any(map(is_hooked, model.modules())):
            raise ModelError(
                "accelerate moves this model's weights or inputs between devices, which a CUDA "
                "graph cannot; load the model on one device without offloading or leave out graphs"
            )
        if model.device.type != "cuda":
            raise ModelError(
                f"CUDA graphs need a model on a CUDA device, this one is on {model.device}; move "
                "it there or leave out graphs"
            )

    def forward(self, layers: nn.ModuleList, index: int, eager: Any) -> Callable[..., Any]:
        """A forward for decoder layer `index`: the first one computes all, the others nothing."""

        def forward(hidden: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
            cache = kwargs.get("past_key_values")
            if not isinstance(cache, PrunedCache) or cache.order is None:
                return eager(hidden, attention_mask=attention_mask, **kwargs)
            if index == 0:
                hidden = self._prefill(layers, cache.order, hidden, attention_mask, kwargs)
            if index + 1 == len(layers):
                cache.order = None
            return hidden

        return forward

    def capture(self, run: Callable[[], Computed]) -> tuple[Callable[[], None], Computed]:
        """A function that repeats what `run` launches, and the tensors that it writes each time."""
        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UPS):
                run()
        here.wait_stream(aside)
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                computed = run()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise PolicyError(
                f"this prefill cannot be captured as a CUDA graph ({reason}); leave out graphs"
            ) from error
        return graph.replay, computed

    def _prefill(
        self, layers: nn.ModuleList, order: Order, hidden: Tensor, mask: Any, kwargs: Any
    ) -> Tensor:
        """Hidden states behind the last layer; keys and values go into the cache."""
        _check_replay(layers, order.prompt)
        cos, sin = kwargs["position_embeddings"]
        given = Given(hidden, cos, sin, order.prompt.visual, order.rank, mask)
        key = _key(layers, order, given)
        with self._in_turn(hidden.device):
            if key not in self._found:
                if len(self._found) == _MOST:
                    del self._found[next(iter(self._found))]
                others = {k: v for k, v in kwargs.items() if isinstance(v, (bool, int, float))}
                static = Static(layers, order, given, others)
                static.fill(given)
                self._found[key] = (static, *self.capture(static.run))
            static, replay, computed = self._found[key]
            static.fill(given)
            replay()
            return hand_out(computed, kwargs["past_key_values"])

    @contextmanager
    def _in_turn(self, device: torch.device) -> Iterator[None]:
        """One prefill after another, from whatever thread or stream: they share memory."""
        with self._lock:
            if device.type != "cuda":
                yield
                return
            with torch.cuda.device(device):
                if self._last is not None:
                    self._last.wait()
                yield
                self._last = torch.cuda.current_stream().record_event()


def _key(layers: Any, order: Order, given: Given) -> Any:
    """All that a graph is fixed to; its Static keeps the layers, so that no others get their id."""
    shapes = [None if t is None else (t.shape, t.dtype, t.device) for t in given]
    turns = [(at, t.ranker, t.look, t.pools.tobytes()) for at, t in order.turns.items()]
    attention = layers[0].self_attn.config._attn_implementation
    return id(layers), order.counts.tobytes(), order.prompt.n_visual, *turns, *shapes, attention


def _check_replay(layers: nn.ModuleList, prompt: Prompt) -> None:
    """Raise PolicyError unless a graph can take the place of the layers for this batch."""
    if torch.is_grad_enabled():
        raise PolicyError(
            "a CUDA graph computes no gradients; call the model inside torch.no_grad() or leave "
            "out graphs"
        )
    sizes = set(zip(prompt.n_visual, prompt.n_other, strict=True))
    if len(sizes) > 1 or sum(next(iter(sizes))) != prompt.visual.shape[1]:
        raise PolicyError(
            "CUDA graphs take batches without padding and of equally many visual tokens, these "
            f"have {', '.join(map(str, prompt.n_visual))}; give prompts one by one or leave out "
            "graphs"
        )
    for name, module in layers.named_modules():
        hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
        if any(hook.__module__ != _RECORDERS for hook in hooks):
            raise PolicyError(
                f"a CUDA graph runs no hooks, and layer {name} has some; remove them or leave out "
                "graphs"
            )
