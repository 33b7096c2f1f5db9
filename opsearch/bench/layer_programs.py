"""Suite `layer-programs`: seconds to prove the best choice per operation of a 32-layer decoder.

Costs of LLaVA-1.5-7B's shape at 30 %, 16 n_v, queries and keys tied; random divergences: lognormal
main effects, normal interactions of a tenth of the geometric mean of the two main effects. Seconds
are processor time, that of the clock on an idle machine, because one thread computes.
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
_TIME = 180.0  # CP-SAT's deterministic time, here half a minute
_REPEATS, _ENOUGH = 5, 20.0  # the fastest of so many, or of what takes so many seconds


def layer_programs() -> Iterator[Row]:
    """One row per number of pairs and solver: fastest seconds, status, gap."""
    from opsearch.layer_space import LayerSpace, layers_space
    from opsearch.problem import Pairwise, Problem, Separable
    from opsearch.solution import Limit
    from opsearch.solvers.ortools_cpsat import CpSat
    from opsearch.solvers.scipy_highs import Highs

    bits = layers_space(32, tied=True)
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
        terms, pairwise = effects(space, pairs)
        objective = (
            Pairwise("random", "nats", space, terms, pairwise, 1e-6)
            if pairs
            else Separable("random", "nats", space, terms, 1e-6)
        )
        problem = Problem(space, objective, (limit(space),))
        for solver in solvers:
            seconds: list[float] = []
            while len(seconds) < _REPEATS and sum(seconds) < _ENOUGH:
                start = time.process_time()
                solution = solver().solve(problem, limit=Limit(deterministic_time=_TIME))
                seconds.append(time.process_time() - start)
            yield {
                "solver": solution.solver,
                "operations": (len(space.levels) - 1) * len(space.operations),
                "n_v": len(space.shares),
                "pairs": name,
                "number": len(pairwise),
                "seconds": round(min(seconds), 3),
                "repeats": len(seconds),
                "status": str(solution.status),
                "value": solution.value,
                "gap": solution.gap,
            }


def effects(space: Any, pairs: list[tuple[int, int]]) -> tuple[tuple[Any, ...], dict[Any, float]]:
    """Random divergences of each choice alone, and random interactions of these pairs."""
    random = np.random.default_rng(1)
    terms = []
    for parameter in space.parameters:
        falling = np.sort(random.lognormal(-5, 1.5, len(parameter.values) - 1))[::-1]
        scale = _SHARE if parameter.name == "n_v" else 1.0
        terms.append(scale * np.append(falling, 0.0).round(6))
    interactions = {}
    for k, m in pairs:
        size = _INTERACTION * float(np.sqrt(terms[k][0] * terms[m][0]))
        interactions[(k, 0), (m, 0)] = round(float(random.normal(0, size)), 6)
    return tuple(terms), interactions


def limit(space: Any, budget: str = "30%") -> Any:
    """A budget of FLOPs for one sample of 576 visual and 65 other tokens."""
    from opsearch.budget import Budget, constraint
    from opsearch.costs.flops import Flops
    from opsearch.costs.shape import SHAPES

    return constraint(Budget.parse(budget), Flops(SHAPES["llava-1.5-7b"]), space, [(576, 65)])
