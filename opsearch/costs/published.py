"""Formulas of papers that no table of (q, kv, mlp) counts can express; for comparisons only."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from opsearch.costs.flops import flops
from opsearch.costs.shape import Shape
from opsearch.policy import Counts


def recipe_tokens(recipe: Mapping[int, int], n_visual: int, layers: int) -> list[int]:
    """Visual tokens entering each layer and leaving the last one, `layers` + 1 numbers.

    recipe: how many tokens are deleted inside a layer, by layer (FitPrune, AAAI 2025).
    """
    left = [n_visual]
    for layer in range(layers):
        left.append(left[-1] - recipe.get(layer, 0))
    return left


def fitprune_macs(recipe: Mapping[int, int], n_visual: int, n_other: int, shape: Shape) -> int:
    """MACs of a FitPrune recipe as its search counts them.

    Tokens are deleted between the scores and the output projection: Q, K, V and scores work on the
    tokens entering the layer, O and MLP on those leaving it. `macs` gives O and Q the same count.
    """
    d, m = shape.hidden, shape.intermediate
    rows = [n_other + n for n in recipe_tokens(recipe, n_visual, shape.layers)]
    return sum(
        3 * n_in * d * d + 2 * n_in * n_in * d + n_out * d * d + 3 * n_out * d * m
        for n_in, n_out in pairwise(rows)
    )


def calflops(counts: Counts, n_visual: int, n_other: int, shape: Shape) -> int:
    """FLOPs as the calflops package reports them for counts int64[L, 3]: `2macs` plus the lm_head.

    The lm_head runs on every token of the prompt, not on the last one (VTW, issue 7; HiPrune).
    """
    lm_head = 2 * shape.hidden * shape.vocab * (n_visual + n_other)
    return int(flops(np.asarray(counts), n_visual, n_other, shape, "2macs")) + lm_head
