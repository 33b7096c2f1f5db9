"""Baselines: methods without a search, which take part in comparisons at equal cost.

A baseline makes a policy from the number of layers, a share and a ranker; opsearch finds the
largest share that is within the budget.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from opsearch import Baseline, Policy, RankerSpec, builders


def _half(layers: int, share: Fraction, ranker: RankerSpec) -> Policy:
    """Keep all tokens in the first half of the layers, and a share after."""
    return builders.stages(layers, {0: 1, layers // 2: share}, ranker)


def _peak_half(layers: int, share: Fraction, ranker: RankerSpec) -> Policy:
    """Keep the same numbers of tokens, in the order of a ranker inside the decoder."""
    half = layers // 2
    policy = builders.stages(layers, {0: 1, half: share})
    return replace(policy, rankers=((half, RankerSpec("acme-peak")),), name=f"peak_half({share})")


HALF = Baseline(
    "All tokens in the first half of the layers, the run's best after.",
    (_half,),
    granularity="it keeps the first half whole",
)
PEAK_HALF = Baseline(
    "All tokens in the first half of the layers, the best by acme-peak after.",
    (_peak_half,),
    ranker="acme-peak",
    published="builders.stages(32, {0: 1, 16: '1/2'})",
)
