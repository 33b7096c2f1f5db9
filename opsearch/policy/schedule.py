"""When the order of visual tokens changes: which rankers act, where, and on how many tokens.

A ranker inside the decoder reads the attention of one layer: PyramidDrop and FitPrune that of the
layer before which they stand, FastV and SparseVLM that of the layer before it. Tokens that these
do not choose need no update in that layer either, so their order holds from there on, unless the
layer updates only a part of what is ranked: then all of it is updated, and the order holds after.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from opsearch import registry
from opsearch.errors import PolicyError
from opsearch.policy.counts import KV, MLP, Counts, Q, live

if TYPE_CHECKING:
    from opsearch.policy.policy import Policy
    from opsearch.policy.ranker import RankerSpec

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Reranking:
    """A ranker at work inside the decoder.

    place: the layer that the policy names; look: the layer whose attention it reads; layer: the
    first one that its order holds for; candidates: how many tokens it orders, the best so far.
    """

    place: int
    spec: RankerSpec
    look: int
    layer: int
    candidates: int


@dataclass(frozen=True, eq=False)
class Schedule:
    """What a policy does to samples of some number of visual tokens.

    live: counts without dead operations, int64[L, 3]; kept: numbers of tokens, fewer than all, that
    are chosen in the order from before the decoder; rerankings: rankers inside it whose order
    has an effect, by layer.
    """

    live: Counts
    kept: frozenset[int]
    rerankings: tuple[Reranking, ...]


@dataclass(frozen=True, eq=False)
class RerankingTable:
    """The rerankings of P policies as tables, by the layer that the order holds from.

    ranker: int64[P, L], the number in `specs`, -1 where the order stays; candidates: int64[P, L],
    how many tokens are ordered, 0 there; back: int64[P, L], 0 or 1, how many layers before that
    the ranker looks.
    """

    specs: tuple[RankerSpec, ...]
    ranker: Ints
    candidates: Ints
    back: Ints

    @classmethod
    def of(cls, policies: Sequence[Sequence[Reranking]], layers: int) -> RerankingTable | None:
        """Return the rerankings of each policy as one table, None where there are none."""
        specs = list(dict.fromkeys(each.spec for rerankings in policies for each in rerankings))
        if not specs:
            return None
        ranker, candidates, back = np.zeros((3, len(policies), layers), np.int64)
        ranker -= 1
        for row, rerankings in enumerate(policies):
            for each in rerankings:
                ranker[row, each.layer] = specs.index(each.spec)
                candidates[row, each.layer] = each.candidates
                back[row, each.layer] = each.layer - each.look
        return cls(tuple(specs), ranker, candidates, back)

    @property
    def place(self) -> Ints:
        """Layers that the policies name, int64[P, L]; -1 where the order stays."""
        layers_back = np.array([spec.layers_back for spec in self.specs])
        named = np.arange(self.ranker.shape[1]) - self.back + layers_back[self.ranker]
        return np.where(self.ranker < 0, -1, named)

    @property
    def candidates_by_layer(self) -> dict[int, Ints]:
        """How many tokens are ordered before each layer, int64[P]."""
        return dict(enumerate(self.candidates.T))

    def part(self, policies: slice | Ints) -> RerankingTable:
        """Return the rerankings of some of the policies."""
        tables = (table[policies] for table in (self.ranker, self.candidates, self.back))
        return RerankingTable(self.specs, *tables)


def schedule(policy: Policy, n_visual: int) -> Schedule:
    """The schedule of a policy; PolicyError for a ranker that cannot stand where it does."""
    counts = policy.resolve(n_visual)
    acting: list[Reranking] = []
    for reranking in reversed(list(_rerankings(policy, counts, n_visual))):
        alive = live(counts, {each.layer: each.candidates for each in acting})
        end = acting[0].layer if acting else len(counts)
        chosen = {acting[0].candidates} if acting else set[int]()
        chosen |= set(alive[reranking.layer : end].ravel().tolist())
        if any(0 < count < reranking.candidates for count in chosen):
            acting.insert(0, reranking)
    alive = live(counts, {each.layer: each.candidates for each in acting})
    first = alive[: acting[0].layer] if acting else alive
    kept = {acting[0].candidates} if acting else set[int]()
    kept |= set(first[(first > 0) & (first < n_visual)].tolist())
    return Schedule(alive, frozenset(kept - {n_visual}), tuple(acting))


def before_decoder(policy: Policy) -> RankerSpec | None:
    """The ranker that orders the tokens before the decoder, None without one."""
    found = [s for place, s in policy.rankers if place == 0 and not s.inside]
    return found[0] if found else None


def where(place: int, spec: RankerSpec) -> str:
    """The place of a ranker in words."""
    return f"before layer {place}" if spec.inside else "before the decoder"


def _rerankings(policy: Policy, counts: Counts, n_visual: int) -> Iterator[Reranking]:
    """Rankers inside the decoder, whether they change anything or not, by layer."""
    taken = {0} if before_decoder(policy) else set[int]()
    for place, spec in sorted(policy.rankers, key=lambda pair: pair[0]):
        if place == 0 and not spec.inside:
            continue
        look = place - _layers_back(place, spec)
        if look == place:
            layer, candidates = place, n_visual
            if place:
                updated = counts[place - 1, [Q, MLP]].max()
                candidates = int(max(updated, counts[place:].max()))
        else:
            layer, candidates = place, int(counts[look, KV])
            q, kv, mlp = policy.counts[look]
            if look not in taken and all(count == 0 or count >= kv for count in (q, mlp)):
                layer = look
        taken.add(layer)
        yield Reranking(place, spec, look, layer, candidates)


def _layers_back(place: int, spec: RankerSpec) -> int:
    if not spec.inside:
        raise PolicyError(
            f"ranker {spec} cannot act before layer {place}; give it layer 0, or use one that acts "
            f"inside the decoder: {', '.join(registry.names('decoder_rankers'))}"
        )
    back = spec.layers_back
    if place < back:
        raise PolicyError(
            f"ranker {spec} reads the attention of the layer before it, so it cannot act before "
            f"layer {place}; give it a layer from {back} on"
        )
    return back
