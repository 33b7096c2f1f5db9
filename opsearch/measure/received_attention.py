"""Attention that visual tokens receive in the original, from one forward per sample (FitPrune).

Each layer's attention is recomputed from the hidden states before it, a few rows at a time, and
only its sums over rows are kept. Samples that the store already holds are not run again.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from opsearch.measure.storage.store import Store
from opsearch.measure.sweep.visibility import Visibility
from opsearch.models.attention import CosSin
from opsearch.models.decoder import Decoder
from opsearch.models.devices import device_of_inputs
from opsearch.models.encoding import Sample, batch_inputs, batches
from opsearch.models.layers import DecoderLayer
from opsearch.models.pruned.ranking import make_prompt
from opsearch.models.supported import check_supported
from opsearch.problem.objective import Masses
from opsearch.rankers.base import AttentionView, Prompt
from opsearch.rankers.decoder import attention_by_source

if TYPE_CHECKING:
    from opsearch.progress import Tick

_MAX_TOKENS = 4096  # of a batch


def received_attention(
    model: Any, store: Store, samples: Sequence[Sample], progress: Tick | None = None
) -> list[Masses]:
    """Return the attention that each sample's visual tokens receive, float32[L, 2, N] each.

    Index 0 holds attention from text rows of the question, index 1 that from visual rows, each
    averaged over its rows. The attention of a row is the maximum over its heads (FitPrune, AAAI
    2025).
    """
    known = store.received([sample.digest for sample in samples])
    pending = list({s.digest: s for s in samples if s.digest not in known}.values())
    done = 0
    for batch in batches(pending, _MAX_TOKENS):
        store.add_received(zip((s.digest for s in batch), _measured(model, batch), strict=True))
        done += len(batch)
        if progress:
            progress(done, len(pending))
    found = store.received([sample.digest for sample in samples])
    return [found[sample.digest] for sample in samples]


@torch.no_grad()
def _measured(model: Any, samples: Sequence[Sample]) -> list[Masses]:
    """Return float32[L, 2, N] for each of these samples of equal shape."""
    family = check_supported(model)
    inputs = batch_inputs(samples, device_of_inputs(model))
    prompt = make_prompt(model, family, inputs["input_ids"], None)
    layers: list[Tensor] = []

    def before_layer(layer: DecoderLayer, stock: Any, args: Any, kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        cos, sin = (each.to(layer.device) for each in kwargs["position_embeddings"])
        mask = kwargs.get("attention_mask")
        mask = mask if mask is None else mask.to(layer.device)
        visibility = Visibility.of_mask(mask, len(hidden))
        received_masses = attention_by_source(
            _full_view(layer, prompt.to(layer.device), hidden, (cos, sin), visibility)
        )
        layers.append(torch.stack(received_masses, 1).to(prompt.visual.device))

    hooks = [
        layer.module.register_forward_pre_hook(partial(before_layer, layer), with_kwargs=True)
        for layer in Decoder.of(model, family).layers
    ]
    try:
        model(**inputs, use_cache=False, logits_to_keep=1)
    finally:
        for hook in hooks:
            hook.remove()
    stacked = torch.stack(layers, 1)
    return [
        masses[..., visual].cpu().numpy()
        for masses, visual in zip(stacked, prompt.visual, strict=True)
    ]


def _full_view(
    layer: DecoderLayer,
    prompt: Prompt,
    hidden: Tensor,
    cos_sin: CosSin,
    visibility: Visibility | None,
) -> AttentionView:
    """Return the view of all rows and columns of a layer, from its input [B, S, D]."""
    hidden = hidden.to(layer.device)
    normed, attention = layer.attention_input(hidden), layer.attention
    positions = torch.arange(hidden.shape[1], device=hidden.device).expand(hidden.shape[:2])
    valid = torch.ones_like(positions, dtype=torch.bool)
    return AttentionView(
        prompt=prompt,
        queries=attention.queries(normed, cos_sin),
        query_positions=positions,
        query_valid=valid,
        keys=attention.keys(normed, cos_sin),
        key_positions=positions,
        key_valid=valid,
        scaling=attention.scaling,
        visible=None if visibility is None else visibility.sees(positions, positions),
    )
