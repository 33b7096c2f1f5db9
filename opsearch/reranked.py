"""Policies of published methods that rank visual tokens inside the decoder.

Defaults are those published for LLaVA-1.5-7B; for other numbers of layers stages start at the same
share of the depth. Sources: FastV (ECCV 2024), PyramidDrop (CVPR 2025), SparseVLM (ICML 2025),
FitPrune (AAAI 2025).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from fractions import Fraction
from itertools import accumulate, pairwise

from opsearch.builders import FractionLike, stages
from opsearch.errors import PolicyError
from opsearch.policy import Policy, RankerSpec

# Tokens of 576 that SparseVLM's second version keeps behind layers 2, 6 and 15 of 32, by the budget
# that it is named after; on average over the layers more are left.
SPARSEVLM = {192: (300, 200, 118), 128: (238, 108, 60), 96: (246, 54, 28), 64: (66, 34, 20)}
_SPARSEVLM_LAYERS, _DEPTH, _TOKENS = (3, 7, 16), 32, 576
_SPARSEVLM_HEADS = 14 / 32

# Tokens of 576 that FitPrune's 60 % recipe deletes in each layer of LLaVA-1.5-7B.
_DELETED = "14 33 89 36 36 20 55 21 18 4 7 5 2 5 7 4 26 5 11 24 4 18 2 1 0 0 1 0 1 0 0 0"
FITPRUNE_60 = {layer: int(n) for layer, n in enumerate(_DELETED.split())}


def fastv(layers: int, k: int = 2, share: FractionLike = "1/2") -> Policy:
    """FastV: all tokens before layer k, from there on a share, by attention in layer k - 1."""
    policy = _ranked("fastv", stages(layers, {0: 1, k: share}), [k])
    return replace(policy, name=f"fastv(k={k}, share={Fraction(share)})")


def pyramiddrop(layers: int = 32, share: FractionLike = "1/2", first: int | None = None) -> Policy:
    """PyramidDrop: a share of the tokens that are left, at three layers of equal distance.

    first: the first of them, None for a quarter of the layers.
    """
    kept, start = Fraction(share), layers // 4 if first is None else first
    starts = [start + i * (layers - start) // 3 for i in range(3)]
    shares = {0: Fraction(1)} | {at: kept ** (i + 1) for i, at in enumerate(starts)}
    policy = _ranked("pyramiddrop", stages(layers, shares), starts)
    return replace(policy, name=f"pyramiddrop(share={kept}, first={start})")


def sparsevlm(layers: int = 32, budget: int = 192, share: FractionLike | None = None) -> Policy:
    """SparseVLM, version 2: falling numbers of tokens at three layers, by the attention of words.

    budget: the published name of these numbers; share: what is left after the first drop instead,
    the other drops in proportion.
    """
    if budget not in SPARSEVLM:
        raise PolicyError(
            f"SparseVLM publishes no numbers of tokens for {budget}; give one of "
            f"{', '.join(map(str, SPARSEVLM))}"
        )
    numbers = SPARSEVLM[budget]
    first = Fraction(numbers[0], _TOKENS) if share is None else Fraction(share)
    starts = [max(1, (2 * at * layers + _DEPTH) // (2 * _DEPTH)) for at in _SPARSEVLM_LAYERS]
    kept = [first * Fraction(n, numbers[0]) for n in numbers]
    shares = {0: Fraction(1)} | dict(zip(starts, kept, strict=True))
    policy = _ranked("sparsevlm", stages(layers, shares), starts, heads=_SPARSEVLM_HEADS)
    return replace(policy, name=f"sparsevlm(budget={budget}, share={first})")


def fitprune(recipe: Mapping[int, int], layers: int = 32, n_visual: int = _TOKENS) -> Policy:
    """FitPrune: in each layer as many tokens are deleted as the recipe says, of `n_visual`.

    Those deleted are read in that layer a last time, but neither updated there nor read later.
    """
    deleted = [recipe.get(layer, 0) for layer in range(layers)]
    left = list(accumulate(deleted, lambda n, gone: n - gone, initial=n_visual))
    outside = sorted(set(recipe) - set(range(layers)))
    if outside or min(deleted) < 0 or left[-1] < 0:
        raise PolicyError(
            f"a recipe that deletes {sum(recipe.values())} of {n_visual} tokens in layers "
            f"{min(recipe)} to {max(recipe)} does not fit {layers} layers; correct it"
        )
    shares = [Fraction(n, n_visual) for n in left]
    counts = tuple((after, before, after) for before, after in pairwise(shares))
    policy = Policy(counts, name=f"fitprune({left[-1]} of {n_visual} left)")
    return _ranked("fitprune", policy, [layer for layer in range(layers) if deleted[layer]])


def _ranked(name: str, policy: Policy, layers: Collection[int], **params: float) -> Policy:
    spec = RankerSpec(name, tuple(params.items()))
    # In a decoder of few layers two stages can start at the same one.
    return replace(policy, rankers=tuple((layer, spec) for layer in sorted(set(layers))))
