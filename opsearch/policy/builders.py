"""Policies of published methods and of the search spaces, as tables of counts.

Depths are numbers of layers kept (the first pruned layer); fractions are shares of the sample's
visual tokens. Sources: DOP (arXiv 2507.02909), VTW (AAAI 2025), ShortV (ICCV 2025), FastV (ECCV
2024), PyramidDrop (CVPR 2025).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from fractions import Fraction
from itertools import accumulate, pairwise
from typing import Literal

from opsearch.errors import PolicyError
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec

FractionLike = Fraction | int | str
KVReading = Literal["leaves", "stays"]
_ONE, _ZERO = Fraction(1), Fraction(0)


def identity(layers: int) -> Policy:
    """The original model: every operation on every visual token."""
    return Policy(((_ONE, _ONE, _ONE),) * layers, name="original")


def tokens(layers: int, n_v: FractionLike, ranker: RankerSpec | None = None) -> Policy:
    """Uniform token reduction: the first n_v of the ranking in every operation."""
    policy = depth(layers, layers, layers, layers, n_v, ranker)
    return _named(policy, f"tokens(n_v={_fraction(n_v)})")


def dop(
    layers: int,
    d_attn: int,
    d_mlp: int,
    n_v: FractionLike = 1,
    ranker: RankerSpec | None = None,
    kv: KVReading = "leaves",
) -> Policy:
    """DOP's three integers: attention up to d_attn, MLP up to d_mlp, on the first n_v tokens.

    The paper's "MHA pruned beyond d_attn" has two readings: keys and values leave with the queries,
    or stay readable in all layers.
    """
    if kv not in ("leaves", "stays"):
        raise PolicyError(f"kv={kv!r} is not a reading of dop; use 'leaves' or 'stays'")
    d_kv = d_attn if kv == "leaves" else layers
    policy = depth(layers, d_attn, d_kv, d_mlp, n_v, ranker)
    return _named(policy, f"dop(d_attn={d_attn}, d_mlp={d_mlp}, n_v={_fraction(n_v)}, kv {kv})")


def depth(
    layers: int,
    d_q: int,
    d_kv: int,
    d_mlp: int,
    n_v: FractionLike = 1,
    ranker: RankerSpec | None = None,
) -> Policy:
    """A depth of its own for each module, on the first n_v tokens of the ranking."""
    for label, value in (("d_q", d_q), ("d_kv", d_kv), ("d_mlp", d_mlp)):
        if not 0 <= value <= layers:
            raise PolicyError(
                f"{label}={value} is outside 0..{layers}, the layers of the decoder; "
                "give one of these"
            )
    share = _fraction(n_v)
    counts = tuple(
        (
            share if layer < d_q else _ZERO,
            share if layer < d_kv else _ZERO,
            share if layer < d_mlp else _ZERO,
        )
        for layer in range(layers)
    )
    name = f"depth(d_q={d_q}, d_kv={d_kv}, d_mlp={d_mlp}, n_v={share})"
    return Policy(counts, rankers=_before_decoder(ranker), name=name)


def vtw(layers: int, k: int) -> Policy:
    """Visual token withdrawal: nothing of the image from layer k on."""
    if not 0 <= k <= layers:
        raise PolicyError(
            f"k={k} is outside 0..{layers}, the layers of the decoder; give one of these"
        )
    return _named(depth(layers, k, k, k), f"vtw(k={k})")


def shortv(layers: int, frozen: Collection[int]) -> Policy:
    """ShortV: visual tokens are not updated in the frozen layers, but stay readable."""
    outside = sorted(layer for layer in frozen if not 0 <= layer < layers)
    if outside:
        raise PolicyError(f"frozen layers {outside} are outside 0..{layers - 1}; leave them out")
    counts = tuple(
        (_ZERO, _ONE, _ZERO) if layer in frozen else (_ONE, _ONE, _ONE) for layer in range(layers)
    )
    return Policy(counts, name=f"shortv(frozen={sorted(frozen)})")


def stages(
    layers: int, shares: Mapping[int, FractionLike], ranker: RankerSpec | None = None
) -> Policy:
    """Falling counts: from layer `start` on, the share of tokens given by `shares[start]`.

    FastV is {0: 1, K: 1 - R}; PyramidDrop {0: 1, 8: "1/2", 16: "1/4", 24: "1/8"}. With one ranker
    before the decoder the order is fixed once; the methods themselves re-rank inside it.
    """
    if 0 not in shares:
        raise PolicyError(f"stages start at {sorted(shares)}; the first stage starts at layer 0")
    outside = sorted(start for start in shares if not 0 <= start < layers)
    if outside:
        raise PolicyError(
            f"stages start at {outside}, outside the layers 0..{layers - 1}; leave those out"
        )
    current, counts = _ZERO, []
    for layer in range(layers):
        current = _fraction(shares.get(layer, current))
        counts.append((current, current, current))
    label = ", ".join(f"{start}: {_fraction(shares[start])}" for start in sorted(shares))
    return Policy(tuple(counts), rankers=_before_decoder(ranker), name=f"stages({label})")


def _fraction(value: FractionLike) -> Fraction:
    """An exact share; a float such as 0.42 would not be the share that was meant."""
    if isinstance(value, float):
        raise PolicyError(f"share {value} is a float; write it exactly, e.g. '{value}' or '1/4'")
    try:
        return Fraction(value)
    except ValueError:
        raise PolicyError(f"share {value!r} is no number; write e.g. '0.42' or '1/4'") from None


def _before_decoder(ranker: RankerSpec | None) -> tuple[tuple[int, RankerSpec], ...]:
    return () if ranker is None else ((0, ranker),)


def _named(policy: Policy, name: str) -> Policy:
    return Policy(policy.counts, policy.unit, policy.rankers, name)


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
