"""Gradients of the gates that policies close, from one backward pass per sample.

At the original the KL and its gradient are 0, and derivatives there say little about operations
that are removed at once. The gradient is therefore taken where every gate of the sample is almost
closed. The value of a policy is a sum over the gates of tokens that it closes: the KL's fall per
unit of the gate, where it falls at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from opsearch.errors import ModelError, PolicyError, shortened
from opsearch.measure.gates.backward import Gated
from opsearch.measure.planning.requests import KeyedPolicy, Requests
from opsearch.measure.storage.records import GateGradient
from opsearch.measure.storage.store import Store
from opsearch.measure.sweep.original import Reference, make_reference
from opsearch.models.decoder import Decoder
from opsearch.models.encoding import Sample, batches
from opsearch.models.supported import check_supported
from opsearch.policy.counts import KV, MLP, Counts, Q
from opsearch.policy.policy import Policy
from opsearch.policy.schedule import before_decoder
from opsearch.rankers import make_ranker

if TYPE_CHECKING:
    from opsearch.progress import Tick

GATE = 0.05
"""Value of all gates where the gradient is taken; chosen on the embedded model."""
_MAX_TOKENS = 4096  # of a batch


def gate_gradients(
    model: Any,
    store: Store,
    policies: Sequence[Policy],
    samples: Sequence[Sample],
    positions: int = 1,
    progress: Tick | None = None,
) -> NDArray[np.float64]:
    """Return the gradient that each policy's closed gates have on each sample, float64[P, S].

    Values are nats per unit of a gate, at least 0, and 0 where nothing is pruned. Those that the
    store holds are not computed again.

    Args:
        model: The model; its weights are not changed.
        store: Where values are looked up and written.
        policies: P policies that rank before the decoder.
        samples: S samples.
        positions: Answer tokens that are compared.
        progress: Called with the samples done and in total.

    Raises:
        ModelError: The weights are quantised.
        PolicyError: A policy ranks inside the decoder.
    """
    requests = Requests(policies, samples)
    missing = requests.missing(store.gate_gradients(requests.all_keys))
    if missing:
        _require_gradients(model)
    done, total = 0, sum(len(pending.samples) for pending in missing)
    for pending in missing:
        for batch in batches(pending.samples, _MAX_TOKENS):
            store.add_gate_gradients(_measured(model, batch, pending.policies, positions))
            done += len(batch)
            if progress:
                progress(done, total)
    return requests.values(store.gate_gradients(requests.all_keys))


def _require_gradients(model: Any) -> None:
    """Raise ModelError if the decoder's weights are quantised."""
    for name, weight in model.named_parameters():
        if not weight.is_floating_point() or hasattr(weight, "__tensor_flatten__"):
            raise ModelError(
                f"objective 'taylor' takes gradients through {name}, whose weights are quantised; "
                "load the model without quantisation, or use --objective additive"
            )


def _measured(
    model: Any, samples: Sequence[Sample], policies: Sequence[KeyedPolicy], positions: int
) -> list[GateGradient]:
    """Return a value for each policy on each of these samples of equal shape."""
    specs = {spec for _, policy in policies if (spec := before_decoder(policy))}
    rankers = {spec: make_ranker(spec) for spec in specs}
    family = check_supported(model)
    needs = frozenset(need for ranker in rankers.values() for need in ranker.needs)
    reference = make_reference(model, family, samples, needs, positions)
    falls = token_gradients(Decoder.of(model, family), reference, GATE)
    falls = (-falls).clamp(min=0).double().cpu()
    size, visual = samples[0].n_visual, reference.prompt.visual.cpu()
    sums: dict[Any, NDArray[np.float64]] = {}
    found = []
    for key, policy in policies:
        spec, kept = before_decoder(policy), max(policy.schedule(size).kept, default=0)
        if (spec, kept) not in sums:
            rank = visual.long()
            if spec is not None:
                rank = rankers[spec].rank(reference.prompt, [kept] * len(samples)).cpu()
            sums[spec, kept] = _summed(falls, rank, visual)
        first, end = closed(policy, size)
        layer, module = np.indices(first.shape)
        of_rank = sums[spec, kept]
        values = of_rank[:, layer, module, end] - of_rank[:, layer, module, first]
        found += [
            GateGradient(key, sample.digest, max(float(value), 0.0))
            for sample, value in zip(samples, values.sum((1, 2)), strict=True)
        ]
    return found


def token_gradients(decoder: Decoder, reference: Reference, gate: float) -> Tensor:
    """Return the gradient of each sample's KL with all gates at one value, float32[B, L, 3, S].

    Args:
        decoder: The decoder.
        reference: The original on the samples.
        gate: Value of all gates, above 0.
    """
    visual = reference.prompt.visual[:, None, None].expand(-1, len(decoder.layers), 3, -1)
    gates = torch.ones(visual.shape, device=visual.device).masked_fill(visual, gate)
    original = reference.logits.float().log_softmax(-1)
    weight = reference.counted / reference.counted.sum(-1, keepdim=True)

    def divergence(logits: Tensor) -> Tensor:
        pruned = logits.float().log_softmax(-1)
        p, counted = original.to(pruned.device), weight.to(pruned.device)
        return ((p.exp() * (p - pruned)).sum(-1) * counted).sum()

    return Gated.forward(decoder, reference, gates).gradients(divergence)


def closed(policy: Policy, n_visual: int) -> tuple[Counts, Counts]:
    """Return the ranks whose gates a policy closes, from the first to before the end, int64[L, 3].

    A dead update is not among them: its result is not read, so that closing its gate, too, does
    not change the answer.

    Raises:
        PolicyError: The policy ranks inside the decoder.
    """
    if policy.schedule(n_visual).rerankings:
        raise PolicyError(
            f"policy {shortened(policy.name)} ranks tokens inside the decoder, where gates have no "
            "order beforehand; use a ranker before the decoder, or --objective joint"
        )
    first = policy.resolve(n_visual)
    end = np.full_like(first, n_visual)
    read = 0
    for layer in reversed(range(len(first))):
        end[layer, [Q, MLP]] = read
        read = max(read, int(first[layer, KV]))
    return np.minimum(first, end), end


def _summed(values: Tensor, rank: Tensor, visual: Tensor) -> NDArray[np.float64]:
    """Return sums over the best tokens, from none to all of N: [B, L, 3, S] to [B, L, 3, N + 1]."""
    last = rank.shape[1]
    order = torch.argsort(rank.masked_fill(~visual, last), dim=1, stable=True)
    order = order[:, : int(visual[0].sum())]
    index = order[:, None, None].expand(*values.shape[:-1], -1)
    sums = values.gather(-1, index).cumsum(-1)
    return np.asarray(torch.nn.functional.pad(sums, (1, 0)).numpy())
