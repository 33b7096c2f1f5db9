"""Published cost formulas that (q, kv, mlp) counts cannot express, for comparisons."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from opsearch.costs.flops import flops
from opsearch.costs.shape import Shape
from opsearch.policy.counts import Counts


def recipe_tokens(recipe: Mapping[int, int], n_visual: int, layers: int) -> list[int]:
    """Return the visual tokens that enter each layer and leave the last one.

    Args:
        recipe: Number of tokens that a layer deletes, by layer (FitPrune, AAAI 2025).
        n_visual: Visual tokens of the sample.
        layers: Number of layers.

    Returns:
        `layers` + 1 numbers.
    """
    left = [n_visual]
    for layer in range(layers):
        left.append(left[-1] - recipe.get(layer, 0))
    return left


def fitprune_macs(recipe: Mapping[int, int], n_visual: int, n_other: int, shape: Shape) -> int:
    """Return the MACs of a FitPrune recipe as its search counts them.

    Tokens are deleted between the scores and the output projection: Q, K, V and scores process the
    tokens that enter the layer, O and the MLP those that leave it. The convention `macs` assigns
    the same count to O and Q.
    """
    d, m = shape.hidden, shape.intermediate
    rows = [n_other + n for n in recipe_tokens(recipe, n_visual, shape.layers)]
    return sum(
        3 * n_in * d * d + 2 * n_in * n_in * d + n_out * d * d + 3 * n_out * d * m
        for n_in, n_out in pairwise(rows)
    )


def calflops(counts: Counts, n_visual: int, n_other: int, shape: Shape) -> int:
    """Return the FLOPs that the calflops package reports for counts int64[L, 3].

    They are `2macs` plus the lm_head on all tokens of the prompt, not only on the last one (VTW,
    issue 7; HiPrune).
    """
    lm_head = 2 * shape.hidden * shape.vocab * (n_visual + n_other)
    return int(flops(np.asarray(counts), n_visual, n_other, shape, "2macs")) + lm_head
