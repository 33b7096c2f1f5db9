"""Names of policies that prune one or two operations, in spaces too large to list."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from opsearch.objectives.additive import alone
from opsearch.objectives.pairwise import pruning_pairs, together
from opsearch.problem.spaces.base import Space, unpruned
from opsearch.problem.spaces.point_policies import PointPolicies

_MOST_PAIRS = 200_000  # pairs of finer choices are not measured


def pruned_alone(space: Space, sizes: set[int]) -> pd.DataFrame:
    """Return what policies prune, such as "kv3=1/4", one row per canonical key.

    Args:
        space: A space that is too large to list.
        sizes: Numbers of visual tokens of the samples.

    Returns:
        `policy`, the canonical key, and `pruned`: nothing, one parameter or two with their values.
    """
    if not space.parameters_act_alone:
        return pd.DataFrame({"policy": [], "pruned": []}, dtype=str)
    rows = np.array([unpruned(space), *_single(space), *_pairs(space)])
    policies, names = PointPolicies(space, rows), [_named(space, row) for row in rows.tolist()]
    blocks = [
        pd.DataFrame({"policy": policies.canonical(n_visual), "pruned": names})
        for n_visual in sorted(sizes)
    ]
    # Equal policies are named after the one that prunes the least.
    return pd.concat(blocks, ignore_index=True).drop_duplicates("policy", keep="first")


def _single(space: Space) -> Iterator[list[int]]:
    for k in range(len(space.parameters)):
        yield from alone(space, k)[:-1]


def _pairs(space: Space) -> Iterator[list[int]]:
    choices = sum(len(parameter.values) - 1 for parameter in space.parameters)
    if choices**2 / 2 <= _MOST_PAIRS:
        for pair in pruning_pairs(space):
            yield together(space, pair)


def _named(space: Space, row: list[int]) -> str:
    chosen = zip(space.parameters, row, strict=True)
    named = (f"{p.name}={p.values[i]}" for p, i in chosen if i < len(p.values) - 1)
    return " ".join(named) or "nothing"
