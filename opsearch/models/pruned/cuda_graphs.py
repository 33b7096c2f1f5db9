"""CUDA graphs of pruned prefills: one launch for all layers of a prompt.

At batch 1 a GPU finishes a pruned layer before the host has launched the next one. A graph is valid
for one shape: prompt length, number of visual tokens, and counts of the policy. The vision tower,
the ranker before the decoder, the lm_head and decoding run eagerly.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from opsearch.errors import ModelError, PolicyError
from opsearch.models.decoder import Decoder
from opsearch.models.devices import is_hooked
from opsearch.models.layers import DecoderLayer
from opsearch.models.pruned.cache import PrunedCache
from opsearch.models.pruned.plan import PlanInputs
from opsearch.models.pruned.static_prefill import (
    PrefillInputs,
    PrefillOutputs,
    StaticPrefill,
    copy_to_cache,
)
from opsearch.rankers.base import Prompt

_MOST = 16  # graphs kept in memory, with their outputs
_WARM_UPS = 2  # libraries select kernels and allocate workspaces in their first calls
# Module of the hooks that record hidden states and attentions; idle unless a caller requests them.
_RECORDERS = "transformers.utils.output_capturing"


class Graphs:
    """CUDA graphs for `policy.apply(model, graphs=Graphs())` or `install`, reusable in later ones.

    The first prompt of each shape is captured, which costs a few prefills. At most 16 graphs are
    kept; the oldest is dropped first. Weights may change in place but not be replaced.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._graphs: dict[Any, tuple[StaticPrefill, Callable[[], None], PrefillOutputs]] = {}
        self._pool: Any = None
        self._last: torch.cuda.Event | None = None

    def check(self, model: Any, decoder: Decoder) -> None:
        """Raise ModelError unless a graph can compute the layers of the decoder on its device."""
        self.check_device(model)
        if len(decoder.kinds) > 1:
            raise ModelError(
                "the layers of this decoder differ in what tokens attend to "
                f"({', '.join(decoder.kinds)}), and a CUDA graph has one mask for all of them; "
                "leave out graphs"
            )

    def check_device(self, model: Any) -> None:
        """Raise ModelError unless the whole model is on one CUDA device."""
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

    def forward(self, layers: Sequence[DecoderLayer], index: int, eager: Any) -> Callable[..., Any]:
        """Return a forward for layer `index`: the first computes all layers, the others none."""

        def forward(hidden: Tensor, attention_mask: Tensor | None = None, **kwargs: Any) -> Any:
            cache = kwargs.get("past_key_values")
            if not isinstance(cache, PrunedCache) or cache.plan_inputs is None:
                return eager(hidden, attention_mask=attention_mask, **kwargs)
            if index == 0:
                hidden = self._prefill(layers, cache.plan_inputs, hidden, attention_mask, kwargs)
            if index + 1 == len(layers):
                cache.plan_inputs = None
            return hidden

        return forward

    def capture(
        self, run: Callable[[], PrefillOutputs]
    ) -> tuple[Callable[[], None], PrefillOutputs]:
        """Capture `run`; return a function that replays it and the outputs that it overwrites."""
        current, warm_up = torch.cuda.current_stream(), torch.cuda.Stream()
        warm_up.wait_stream(current)
        with torch.cuda.stream(warm_up):
            for _ in range(_WARM_UPS):
                run()
        current.wait_stream(warm_up)
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                outputs = run()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise PolicyError(
                f"this prefill cannot be captured as a CUDA graph ({reason}); leave out graphs"
            ) from error
        return graph.replay, outputs

    def _prefill(
        self,
        layers: Sequence[DecoderLayer],
        plan_inputs: PlanInputs,
        hidden: Tensor,
        mask: Any,
        kwargs: Any,
    ) -> Tensor:
        """Return the outputs of the last layer [B, S, D]; store keys and values in the cache."""
        prompt = plan_inputs.prompt
        _check_replay(layers, prompt)
        cos, sin = kwargs["position_embeddings"]
        added = torch.stack(list(plan_inputs.added)) if plan_inputs.added else None
        inputs = PrefillInputs(hidden, cos, sin, prompt.visual, plan_inputs.rank, mask, added)
        key = _key(layers, plan_inputs, inputs)
        with self._exclusive(hidden.device):
            if key not in self._graphs:
                if len(self._graphs) == _MOST:
                    del self._graphs[next(iter(self._graphs))]
                options = {k: v for k, v in kwargs.items() if isinstance(v, (bool, int, float))}
                static = StaticPrefill(layers, plan_inputs, inputs, options)
                static.fill(inputs)
                self._graphs[key] = (static, *self.capture(static.run))
            static, replay, outputs = self._graphs[key]
            static.fill(inputs)
            replay()
            return copy_to_cache(outputs, kwargs["past_key_values"])

    @contextmanager
    def _exclusive(self, device: torch.device) -> Iterator[None]:
        """Serialize prefills of all threads and streams, because the graphs share memory."""
        with self._lock:
            if device.type != "cuda":
                yield
                return
            with torch.cuda.device(device):
                if self._last is not None:
                    self._last.wait()
                yield
                self._last = torch.cuda.current_stream().record_event()


def _key(layers: Sequence[DecoderLayer], plan_inputs: PlanInputs, inputs: PrefillInputs) -> Any:
    """Return everything that is constant in a graph.

    The first layer's id is not reused while the graph exists, because its StaticPrefill references
    it.
    """
    shapes = [None if t is None else (t.shape, t.dtype, t.device) for t in inputs]
    rerankings = [
        (layer, each.ranker, each.attention_layer, each.candidates.tobytes())
        for layer, each in plan_inputs.rerankings.items()
    ]
    counts, n_visual = plan_inputs.counts.tobytes(), plan_inputs.prompt.n_visual
    attention = layers[0].attention.implementation
    return id(layers[0].module), counts, n_visual, *rerankings, *shapes, attention


def _check_replay(layers: Sequence[DecoderLayer], prompt: Prompt) -> None:
    """Raise PolicyError unless a graph can compute the layers for this batch."""
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
    for name, module in _modules(layers):
        hooks = (*module._forward_pre_hooks.values(), *module._forward_hooks.values())
        if any(hook.__module__ != _RECORDERS for hook in hooks):
            raise PolicyError(
                f"a CUDA graph runs no hooks, and layer {name} has some; remove them or leave out "
                "graphs"
            )


def _modules(layers: Sequence[DecoderLayer]) -> Iterator[tuple[str, nn.Module]]:
    """Yield all modules of the layers with their names, such as 0.mlp."""
    for index, layer in enumerate(layers):
        yield from layer.module.named_modules(prefix=str(index))
