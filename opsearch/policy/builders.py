"""Policies of the search spaces and of published methods, as tables of counts.

A depth is the number of layers that are kept, which is also the index of the first pruned layer. A
share is a fraction of the sample's visual tokens. Defaults of methods that rank inside the decoder
are those published for LLaVA-1.5-7B; with another number of layers, stages start at the same
fraction of the depth. Sources: DOP (arXiv 2507.02909), VTW (AAAI 2025), ShortV (ICCV 2025), FastV
(ECCV 2024), PyramidDrop (CVPR 2025), SparseVLM (ICML 2025), FitPrune (AAAI 2025), VisPCO (arXiv
2604.15188), P-Sigmoid (arXiv 2412.00556), V-Skip (arXiv 2606.08511), operator skipping (arXiv
2606.31903), HiDrop (arXiv 2602.23699).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from fractions import Fraction
from itertools import accumulate, pairwise
from math import exp
from typing import Literal

from opsearch.errors import PolicyError, echo
from opsearch.policy.counts import exact_count
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec

FractionLike = Fraction | int | str
KVReading = Literal["leaves", "stays"]
_ONE, _ZERO = Fraction(1), Fraction(0)

# Tokens of 576 that version 2 of SparseVLM keeps after layers 2, 6 and 15 of 32, by the name of the
# budget. The average over the layers is above that number.
SPARSEVLM = {192: (300, 200, 118), 128: (238, 108, 60), 96: (246, 54, 28), 64: (66, 34, 20)}
_SPARSEVLM_LAYERS, _DEPTH, _TOKENS = (3, 7, 16), 32, 576
_SPARSEVLM_HEADS = 14 / 32

# Tokens of 576 that FitPrune's 60 % recipe deletes in each layer of LLaVA-1.5-7B.
_DELETED = "14 33 89 36 36 20 55 21 18 4 7 5 2 5 7 4 26 5 11 24 4 18 2 1 0 0 1 0 1 0 0 0"
FITPRUNE_60 = {layer: int(n) for layer, n in enumerate(_DELETED.split())}
# The same of 2880 tokens of LLaVA-NeXT-7B: fitprune(FITPRUNE_NEXT_60, n_visual=2880).
_DELETED_NEXT = (
    "98 313 279 218 201 221 167 132 63 12 11 5 1 8 26 13 83 57 56 58 24 42 0 2 1 5 0 0 0 0 0 0"
)
FITPRUNE_NEXT_60 = {layer: int(n) for layer, n in enumerate(_DELETED_NEXT.split())}


def identity(layers: int) -> Policy:
    """Return the original model's policy: every operation on every visual token."""
    return Policy(((_ONE, _ONE, _ONE),) * layers, name="original")


def tokens(layers: int, n_v: FractionLike, ranker: RankerSpec | None = None) -> Policy:
    """Reduce the tokens uniformly: every operation processes the first n_v of the ranking."""
    policy = depth(layers, layers, layers, layers, n_v, ranker)
    return replace(policy, name=f"tokens(n_v={_fraction(n_v)})")


def dop(
    layers: int,
    d_attn: int,
    d_mlp: int,
    n_v: FractionLike = 1,
    ranker: RankerSpec | None = None,
    kv: KVReading = "leaves",
) -> Policy:
    """Build DOP's policy: attention up to d_attn, MLP up to d_mlp, on the first n_v tokens.

    Args:
        layers: Number of decoder layers.
        d_attn: Depth of the attention, 0 to `layers`.
        d_mlp: Depth of the MLPs, 0 to `layers`.
        n_v: Share of the visual tokens.
        ranker: Ranker before the decoder.
        kv: Reading of the paper's "MHA pruned beyond d_attn": keys and values "leaves" with the
            queries, or "stays" readable in all layers.

    Raises:
        PolicyError: A depth or a share is out of range.
    """
    if kv not in ("leaves", "stays"):
        raise PolicyError(f"kv={echo(kv)} is not a reading of dop; use 'leaves' or 'stays'")
    d_kv = d_attn if kv == "leaves" else layers
    policy = depth(layers, d_attn, d_kv, d_mlp, n_v, ranker)
    name = f"dop(d_attn={d_attn}, d_mlp={d_mlp}, n_v={_fraction(n_v)}, kv {kv})"
    return replace(policy, name=name)


def depth(
    layers: int,
    d_q: int,
    d_kv: int,
    d_mlp: int,
    n_v: FractionLike = 1,
    ranker: RankerSpec | None = None,
) -> Policy:
    """Build a policy with separate depths of q, kv and mlp, on the first n_v tokens."""
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
    """Withdraw all visual tokens from layer k on (VTW)."""
    if not 0 <= k <= layers:
        raise PolicyError(
            f"k={k} is outside 0..{layers}, the layers of the decoder; give one of these"
        )
    return replace(depth(layers, k, k, k), name=f"vtw(k={k})")


def shortv(layers: int, frozen: Collection[int]) -> Policy:
    """Freeze the visual tokens in some layers, where they remain readable (ShortV)."""
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
    """Keep the share `shares[start]` of the tokens from each layer `start` on.

    FastV is {0: 1, K: 1 - R}, PyramidDrop {0: 1, 8: "1/2", 16: "1/4", 24: "1/8"}. A ranker before
    the decoder fixes the order once, whereas these methods rerank inside it.
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


def curve(
    layers: int, shares: Collection[FractionLike], ranker: RankerSpec | None = None
) -> Policy:
    """Keep a share of the tokens in each layer, which may also rise again.

    Raises:
        PolicyError: There is not one share for each layer.
    """
    if len(shares) != layers:
        raise PolicyError(
            f"a curve has {len(shares)} shares for {layers} layers; give one for each"
        )
    counts = tuple((_fraction(share),) * 3 for share in shares)
    return Policy(counts, rankers=_before_decoder(ranker), name="curve")


def vispco(layers: int, k: int, share: FractionLike, ranker: RankerSpec | None = None) -> Policy:
    """Keep 1 + (share - 1) sigmoid(10 (i - k)) of the tokens in layer i (VisPCO).

    VisPCO predicts k and the share for each sample, here they are the same for all. Shares are in
    thousandths.
    """
    gone = 1 - float(_fraction(share))
    kept = [_thousandths(1 - gone * _sigmoid(10 * (i - k))) for i in range(layers)]
    return replace(curve(layers, kept, ranker), name=f"vispco(k={k}, share={_fraction(share)})")


def sigmoid(
    layers: int, middle: FractionLike, slope: int, ranker: RankerSpec | None = None
) -> Policy:
    """Keep tokens along a sigmoid over the layers (P-Sigmoid).

    Layer i keeps the share sigmoid(slope (middle - i / layers)), in thousandths.

    Args:
        layers: Number of decoder layers.
        middle: Depth at which half of the tokens are left, as a share of the layers; it may lie
            outside the decoder.
        slope: Steepness over the whole depth.
        ranker: Ranker before the decoder.
    """
    centre = float(_fraction(middle))
    kept = [_thousandths(_sigmoid(slope * (centre - i / layers))) for i in range(layers)]
    name = f"sigmoid(middle={_fraction(middle)}, slope={slope})"
    return replace(curve(layers, kept, ranker), name=name)


def late_pyramid(
    layers: int, first: int, last: FractionLike, ranker: RankerSpec | None = None
) -> Policy:
    """Process no visual token before layer `first`, all in it and ever fewer up to `last` (HiDrop).

    Layer i keeps 1 - ((i - first) / (last - first))^2 of the tokens, a concave decrease.

    Args:
        layers: Number of decoder layers.
        first: Layer at which the visual tokens enter.
        last: Layer from which on none is left, above `first`; it may lie outside the decoder.
        ranker: Ranker before the decoder.

    Raises:
        PolicyError: `last` is not above `first`.
    """
    end = float(_fraction(last))
    if end <= first:
        raise PolicyError(f"last={end:g} is not above first={first}; give a later layer")
    kept = [
        _thousandths(1 - ((i - first) / (end - first)) ** 2) if first <= i < end else _ZERO
        for i in range(layers)
    ]
    return replace(curve(layers, kept, ranker), name=f"late_pyramid(first={first}, last={end:g})")


def vskip(layers: int, k: int) -> Policy:
    """Skip the attention of visual tokens from layer k on, where they remain readable (V-Skip)."""
    skipped = {(layer, "q") for layer in range(k, layers)}
    return replace(skip(layers, skipped), name=f"vskip(k={k})")


def skip(layers: int, skipped: Collection[tuple[int, str]]) -> Policy:
    """Skip operators of the visual tokens, which all remain readable (operator skipping).

    Args:
        layers: Number of decoder layers.
        skipped: Pairs of a layer and "q" or "mlp".

    Raises:
        PolicyError: A pair is no such operator of the decoder.
    """
    allowed = {(layer, module) for layer in range(layers) for module in ("q", "mlp")}
    if outside := sorted(set(skipped) - allowed):
        raise PolicyError(
            f"operators {outside} cannot be skipped; give pairs of a layer from 0 to {layers - 1} "
            "and 'q' or 'mlp'"
        )
    counts = tuple(
        (
            _ZERO if (layer, "q") in skipped else _ONE,
            _ONE,
            _ZERO if (layer, "mlp") in skipped else _ONE,
        )
        for layer in range(layers)
    )
    named = " ".join(f"{layer}:{module}" for layer, module in sorted(skipped))
    return Policy(counts, name=f"skip({named})")


def _sigmoid(x: float) -> float:
    return 1 / (1 + exp(-x)) if x > 0 else exp(x) / (1 + exp(x))


def _thousandths(value: float) -> Fraction:
    return Fraction(round(1000 * value), 1000)


def _fraction(value: FractionLike) -> Fraction:
    """Return an exact share."""
    try:
        return exact_count(value)
    except ValueError as error:
        raise PolicyError(f"share {error}") from None


def _before_decoder(ranker: RankerSpec | None) -> tuple[tuple[int, RankerSpec], ...]:
    return () if ranker is None else ((0, ranker),)


def fastv(layers: int, k: int = 2, share: FractionLike = "1/2") -> Policy:
    """Keep a share of the tokens from layer k on, ranked by attention in layer k - 1 (FastV)."""
    policy = _ranked("fastv", stages(layers, {0: 1, k: share}), [k])
    return replace(policy, name=f"fastv(k={k}, share={_fraction(share)})")


def pyramiddrop(layers: int = 32, share: FractionLike = "1/2", first: int | None = None) -> Policy:
    """Keep a share of the remaining tokens at each of three equally spaced layers (PyramidDrop).

    Args:
        layers: Number of decoder layers.
        share: Share of the remaining tokens that each stage keeps.
        first: Layer of the first stage; None: a quarter of the layers.
    """
    kept, start = _fraction(share), layers // 4 if first is None else first
    starts = [start + i * (layers - start) // 3 for i in range(3)]
    shares = {0: Fraction(1)} | {at: kept ** (i + 1) for i, at in enumerate(starts)}
    policy = _ranked("pyramiddrop", stages(layers, shares), starts)
    return replace(policy, name=f"pyramiddrop(share={kept}, first={start})")


def sparsevlm(
    layers: int = 32,
    budget: int = 192,
    share: FractionLike | None = None,
    first: int | None = None,
) -> Policy:
    """Keep fewer tokens from each of three layers on, by attention of text (SparseVLM, version 2).

    Args:
        layers: Number of decoder layers.
        budget: Name of the published token numbers: 192, 128, 96 or 64.
        share: Share of the tokens after the first stage, with the others in proportion; None: as
            published.
        first: Layer of the first stage, from which the others divide the remaining layers as
            published; None: as published.

    Raises:
        PolicyError: No numbers are published for the budget, or the layer is not in the decoder.
    """
    if budget not in SPARSEVLM:
        raise PolicyError(
            f"SparseVLM publishes no token numbers for budget {budget}; use one of "
            f"{', '.join(map(str, SPARSEVLM))}"
        )
    numbers = SPARSEVLM[budget]
    most = Fraction(numbers[0], _TOKENS) if share is None else _fraction(share)
    starts = _sparsevlm_starts(layers, first)
    kept = [most * Fraction(n, numbers[0]) for n in numbers]
    shares = {0: Fraction(1)} | dict(zip(starts, kept, strict=True))
    policy = _ranked("sparsevlm", stages(layers, shares), starts, heads=_SPARSEVLM_HEADS)
    at = "" if first is None else f", first={first}"
    return replace(policy, name=f"sparsevlm(budget={budget}, share={most}{at})")


def _sparsevlm_starts(layers: int, first: int | None) -> list[int]:
    """Return the layers of the three stages, each rounded to the nearest."""
    if first is None:
        return [max(1, (2 * at * layers + _DEPTH) // (2 * _DEPTH)) for at in _SPARSEVLM_LAYERS]
    begin = _SPARSEVLM_LAYERS[0]
    ratio = Fraction(layers - first, _DEPTH - begin)
    return [first + int((at - begin) * ratio + Fraction(1, 2)) for at in _SPARSEVLM_LAYERS]


def fitprune(recipe: Mapping[int, int], layers: int = 32, n_visual: int = _TOKENS) -> Policy:
    """Delete a number of tokens in each layer (FitPrune).

    A layer still reads the tokens that are deleted in it, but no longer updates them. Of N tokens,
    a layer deletes floor(n N / n_visual), as the method scales the recipe of LLaVA-NeXT.

    Args:
        recipe: Number n of deleted tokens by layer.
        layers: Number of decoder layers.
        n_visual: Number of visual tokens that the recipe is made for.

    Raises:
        PolicyError: The recipe deletes more tokens than there are, or names other layers.
    """
    deleted = [recipe.get(layer, 0) for layer in range(layers)]
    left = list(accumulate(deleted, lambda n, gone: n - gone, initial=n_visual))
    outside = sorted(set(recipe) - set(range(layers)))
    if outside or min(deleted) < 0 or left[-1] < 0:
        raise PolicyError(
            f"a recipe that deletes {sum(recipe.values())} of {n_visual} tokens in layers "
            f"{min(recipe)} to {max(recipe)} does not fit {layers} layers; delete at most "
            f"{n_visual} tokens, in layers 0 to {layers - 1}"
        )
    shares = [Fraction(n, n_visual) for n in left]
    counts = tuple((after, before, after) for before, after in pairwise(shares))
    policy = Policy(counts, "recipe", name=f"fitprune({left[-1]} of {n_visual} left)")
    return _ranked("fitprune", policy, [layer for layer in range(layers) if deleted[layer]])


def _ranked(name: str, policy: Policy, layers: Collection[int], **params: float) -> Policy:
    spec = RankerSpec(name, tuple(params.items()))
    # In a decoder of few layers two stages can start at the same one.
    return replace(policy, rankers=tuple((layer, spec) for layer in sorted(set(layers))))
