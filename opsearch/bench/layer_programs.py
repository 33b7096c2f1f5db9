"""Suite `layer-programs`: seconds to prove the best choice per operation of a 32-layer decoder.

Costs of LLaVA-1.5-7B's shape at 30 %, 16 n_v; random divergences: lognormal main effects, normal
interactions of a tenth of the geometric mean of the two main effects.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from fractions import Fraction
from itertools import combinations
from typing import Any

import numpy as np

Row = dict[str, Any]

_INTERACTION = 0.1
_SHARE = 30.0  # with fewer tokens everywhere more is lost than with one operation less
_TIME = 60.0  # CP-SAT's deterministic time, about seconds


def layer_programs() -> Iterator[Row]:
    """One row per number of pairs and solver: seconds, status, gap."""
    from opsearch.layer_space import LayerSpace, layers_space
    from opsearch.problem import Pairwise, Problem, Separable
    from opsearch.solution import Limit
    from opsearch.solvers.cpsat import CpSat
    from opsearch.solvers.highs import Highs

    bits = layers_space(32)
    groups = tuple(Fraction(k, 11) for k in range(12))
    grouped = LayerSpace("operations", 32, groups, (Fraction(1),), None)
    every = list(combinations(range(len(bits.operations)), 2))
    adjacent = [(k, m) for k, m in every if bits.operations[m][0] - bits.operations[k][0] <= 1]
    random = np.random.default_rng(0)
    some = [every[i] for i in random.choice(len(every), 500, replace=False)]
    cases: list[tuple[str, LayerSpace, list[tuple[int, int]], tuple[type[Any], ...]]] = [
        ("none", bits, [], (CpSat, Highs)),
        ("adjacent layers", bits, adjacent, (CpSat, Highs)),
        ("500 by chance", bits, some, (CpSat, Highs)),
        ("all", bits, every, (CpSat,)),
        ("none, 11 groups", grouped, [], (CpSat, Highs)),
    ]
    for name, space, pairs, solvers in cases:
        terms, effects = _effects(space, pairs)
        objective = (
            Pairwise("random", "nats", space, terms, effects, 1e-6)
            if pairs
            else Separable("random", "nats", space, terms, 1e-6)
        )
        for solver in solvers:
            problem = Problem(space, objective, (_limit(space),))
            start = time.perf_counter()
            solution = solver().solve(problem, limit=Limit(deterministic_time=_TIME))
            yield {
                "solver": solution.solver,
                "operations": (len(space.levels) - 1) * len(space.operations),
                "n_v": len(space.shares),
                "pairs": name,
                "number": len(effects),
                "seconds": round(time.perf_counter() - start, 2),
                "status": str(solution.status),
                "value": solution.value,
                "gap": solution.gap,
            }


def _effects(space: Any, pairs: list[tuple[int, int]]) -> tuple[tuple[Any, ...], dict[Any, float]]:
    random = np.random.default_rng(1)
    terms = []
    for parameter in space.parameters:
        falling = np.sort(random.lognormal(-5, 1.5, len(parameter.values) - 1))[::-1]
        scale = _SHARE if parameter.name == "n_v" else 1.0
        terms.append(scale * np.append(falling, 0.0).round(6))
    effects = {}
    for k, m in pairs:
        size = _INTERACTION * float(np.sqrt(terms[k][0] * terms[m][0]))
        effects[(k, 0), (m, 0)] = round(float(random.normal(0, size)), 6)
    return tuple(terms), effects


def _limit(space: Any) -> Any:
    from opsearch.budget import Budget, constraint
    from opsearch.costs.flops import Flops
    from opsearch.costs.shape import SHAPES

    return constraint(Budget.parse("30%"), Flops(SHAPES["llava-1.5-7b"]), space, [(576, 65)])
