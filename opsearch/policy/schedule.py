"""Schedule of a policy: live counts, and where rankers inside the decoder rerank the tokens.

A ranker inside the decoder reads the attention of one layer: PyramidDrop and FitPrune read the
layer that they act before, FastV and SparseVLM the preceding one. The preceding layer need not
update tokens that are then dropped, so the new order already holds in it. If that layer updates
only a part of the candidates, the order holds after it and all candidates are updated in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from opsearch import registry
from opsearch.errors import PolicyError, shortened
from opsearch.formatting import screen_repr
from opsearch.policy.counts import KV, MLP, Candidates, Counts, Q, live

if TYPE_CHECKING:
    from opsearch.policy.policy import Policy
    from opsearch.policy.ranker import RankerSpec

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Reranking:
    """A reranking inside the decoder.

    Attributes:
        ranker_layer: Layer of the ranker in the policy.
        spec: The ranker.
        attention_layer: Layer whose attention it reads.
        layer: First layer in which its order holds.
        candidates: Number of candidates, the first ones of the previous order.
    """

    ranker_layer: int
    spec: RankerSpec
    attention_layer: int
    layer: int
    candidates: int


@dataclass(frozen=True, eq=False)
class Schedule:
    """Effect of a policy on samples with one number of visual tokens.

    Attributes:
        live: Counts without dead operations, int64[L, 3].
        kept: Numbers of tokens, below all, that are selected by the order before the decoder.
        rerankings: Rerankings that change a selection, by layer.
    """

    live: Counts
    kept: frozenset[int]
    rerankings: tuple[Reranking, ...]

    __repr__ = screen_repr


@dataclass(frozen=True, eq=False)
class RerankingTable:
    """Rerankings of P policies as tables over the layers from which the order holds.

    Attributes:
        specs: The rankers.
        ranker: Index in `specs`, -1 where the order is kept, int64[P, L].
        candidates: Number of candidates, 0 where the order is kept, int64[P, L].
        back: Distance to the layer whose attention is read, 0 or 1, int64[P, L].
    """

    specs: tuple[RankerSpec, ...]
    ranker: Ints
    candidates: Ints
    back: Ints

    __repr__ = screen_repr

    @classmethod
    def of(cls, policies: Sequence[Sequence[Reranking]], layers: int) -> RerankingTable | None:
        """Tabulate the rerankings of each policy; return None if there are none."""
        specs = list(dict.fromkeys(each.spec for rerankings in policies for each in rerankings))
        if not specs:
            return None
        ranker, candidates, back = np.zeros((3, len(policies), layers), np.int64)
        ranker -= 1
        for row, rerankings in enumerate(policies):
            for each in rerankings:
                ranker[row, each.layer] = specs.index(each.spec)
                candidates[row, each.layer] = each.candidates
                back[row, each.layer] = each.layer - each.attention_layer
        return cls(tuple(specs), ranker, candidates, back)

    @property
    def ranker_layer(self) -> Ints:
        """Layer of each reranking in its policy, -1 where the order is kept, int64[P, L]."""
        layers_back = np.array([spec.layers_back for spec in self.specs])
        named = np.arange(self.ranker.shape[1]) - self.back + layers_back[self.ranker]
        return np.where(self.ranker < 0, -1, named)

    @property
    def candidates_by_layer(self) -> dict[int, Ints]:
        """Number of candidates before each layer, int64[P]."""
        return dict(enumerate(self.candidates.T))

    def part(self, policies: slice | Ints) -> RerankingTable:
        """Return the table of a part of the policies."""
        tables = (table[policies] for table in (self.ranker, self.candidates, self.back))
        return RerankingTable(self.specs, *tables)


def schedule(policy: Policy, n_visual: int, *, all_rows: bool = False) -> Schedule:
    """Return the schedule of a policy.

    Args:
        policy: The policy.
        n_visual: Number of visual tokens.
        all_rows: True if the hidden states of visual tokens are a result too, so that no operation
            is dead.

    Raises:
        PolicyError: A ranker cannot act at its layer.
    """
    counts = policy.resolve(n_visual)
    without_dead = _unchanged if all_rows else live
    acting: list[Reranking] = []
    for reranking in reversed(list(_rerankings(policy, counts, n_visual))):
        alive = without_dead(counts, {each.layer: each.candidates for each in acting})
        end = acting[0].layer if acting else len(counts)
        chosen = {acting[0].candidates} if acting else set[int]()
        chosen |= set(alive[reranking.layer : end].ravel().tolist())
        if any(0 < count < reranking.candidates for count in chosen):
            acting.insert(0, reranking)
    alive = without_dead(counts, {each.layer: each.candidates for each in acting})
    first = alive[: acting[0].layer] if acting else alive
    kept = {acting[0].candidates} if acting else set[int]()
    kept |= set(first[(first > 0) & (first < n_visual)].tolist())
    return Schedule(alive, frozenset(kept - {n_visual}), tuple(acting))


def _unchanged(counts: Counts, candidates: Candidates | None = None) -> Counts:
    """Return all counts, see `live`."""
    return counts


def before_decoder(policy: Policy) -> RankerSpec | None:
    """Return the ranker before the decoder, or None."""
    found = [s for layer, s in policy.rankers if layer == 0 and not s.inside]
    return found[0] if found else None


def where(layer: int, spec: RankerSpec) -> str:
    """Return where a ranker acts, in words."""
    return f"before layer {layer}" if spec.inside else "before the decoder"


def _rerankings(policy: Policy, counts: Counts, n_visual: int) -> Iterator[Reranking]:
    """Yield all rerankings by layer, including those that change no selection."""
    taken = {0} if before_decoder(policy) else set[int]()
    for ranker_layer, spec in sorted(policy.rankers, key=lambda pair: pair[0]):
        if ranker_layer == 0 and not spec.inside:
            continue
        attention_layer = ranker_layer - _layers_back(ranker_layer, spec)
        if attention_layer == ranker_layer:
            layer, candidates = ranker_layer, n_visual
            if ranker_layer:
                updated = counts[ranker_layer - 1, [Q, MLP]].max()
                candidates = int(max(updated, counts[ranker_layer:].max()))
        else:
            layer, candidates = ranker_layer, int(counts[attention_layer, KV])
            q, kv, mlp = policy.counts[attention_layer]
            updates_part = any(0 < count < kv for count in (q, mlp))
            if attention_layer not in taken and not updates_part:
                layer = attention_layer
        taken.add(layer)
        yield Reranking(ranker_layer, spec, attention_layer, layer, candidates)


def _layers_back(layer: int, spec: RankerSpec) -> int:
    if not spec.inside:
        raise PolicyError(
            f"ranker {shortened(spec)} cannot act before layer {layer}; give it layer 0, or "
            f"use one that acts inside the decoder: {', '.join(registry.names('decoder_rankers'))}"
        )
    back = spec.layers_back
    if layer < back:
        raise PolicyError(
            f"ranker {shortened(spec)} reads the attention of the layer before it, so it "
            f"cannot act before layer {layer}; give it a layer from {back} on"
        )
    return back
