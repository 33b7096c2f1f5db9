"""Policies of published methods and of the search spaces, as tables of counts.

Depths are numbers of layers kept (the first pruned layer); fractions are shares of the sample's
visual tokens. Sources: DOP (arXiv 2507.02909), VTW (AAAI 2025), ShortV (ICCV 2025), FastV (ECCV
2024), PyramidDrop (CVPR 2025).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fractions import Fraction
from typing import Literal

from opsearch.errors import PolicyError
from opsearch.policy import Policy, RankerSpec

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
