"""Suite `layer-programs`: seconds of CP-SAT and HiGHS on the problems that the command line poses.

First every space of 12 and 32 layers within 20, 30 and 50 % of the FLOPs, without pairs and with
some (in `layers` and `operations` those of adjacent layers); then ever more pairs in a decoder of
32 layers at 30 %, queries and keys tied. Costs of LLaVA-1.5-7B's shape; random effects: lognormal
main effects, normal interactions of a tenth of the geometric mean of the two main effects. Seconds
are processor time, that of the clock on an idle machine, because one thread computes.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from itertools import combinations, product
from typing import Any

import numpy as np

from benchmarks.rows import BenchmarkRow

_INTERACTION = 0.1
_SHARE = 30.0  # with fewer tokens everywhere more is lost than with one operation less
_TIME = 180.0  # CP-SAT's deterministic time, here half a minute
# At most this many repeats, and no new one after this many seconds; the fastest counts.
_REPEATS, _ENOUGH = 5, 20.0


def layer_programs(layers: Sequence[int] = (12, 32)) -> Iterator[BenchmarkRow]:
    """Yield a row per problem and solver: fastest seconds, status, value.

    Args:
        layers: Layers of the decoders; the last is that of the problems with ever more pairs.
    """
    from opsearch.problem.problem import Problem
    from opsearch.problem.solution import Limit
    from opsearch.problem.spaces.operations import OperationSpace, layers_space
    from opsearch.solvers.ortools import CpSat
    from opsearch.solvers.scipy import Highs

    yield from _every_space(layers)
    bits = layers_space(layers[-1], tied=True)
    every, adjacent = list(combinations(range(len(bits.operations)), 2)), _adjacent(bits)
    random = np.random.default_rng(0)
    some = [every[i] for i in random.choice(len(every), min(500, len(every)), replace=False)]
    cases: list[tuple[str, OperationSpace, list[tuple[int, int]], tuple[type[Any], ...]]] = [
        ("none", bits, [], (CpSat, Highs)),
        ("adjacent layers", bits, adjacent, (CpSat, Highs)),
        (f"{len(some)} by chance", bits, some, (CpSat, Highs)),
        ("all", bits, every, (CpSat,)),
    ]
    for name, space, pairs, solvers in cases:
        terms, pairwise = effects(space, pairs)
        problem = Problem(space, _objective(space, terms, pairwise), (limit(space),))
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


def _every_space(numbers: Sequence[int]) -> Iterator[BenchmarkRow]:
    """Yield a row per space, number of layers, form and budget: CP-SAT's fastest seconds of two."""
    from opsearch.problem.problem import Problem
    from opsearch.problem.spaces.depth import depth_space, dop_space, tokens_space
    from opsearch.problem.spaces.operations import layers_space, operations_space
    from opsearch.problem.spaces.stages import stages_space
    from opsearch.solvers.ortools import CpSat

    for layers in numbers:
        spaces: list[Any] = [tokens_space(layers), dop_space(layers), depth_space(layers)]
        spaces += [stages_space(layers), layers_space(layers), operations_space(layers)]
        for space, with_pairs in product(spaces, (False, True)):
            terms, pairs = effects(space, _adjacent(space) if with_pairs else [])
            for budget in ("20%", "30%", "50%"):
                seconds = []
                for _ in range(2):
                    problem = Problem(
                        space, _objective(space, terms, pairs), (limit(space, budget),)
                    )
                    start = time.process_time()
                    solution = CpSat().solve(problem)
                    seconds.append(time.process_time() - start)
                yield {
                    "solver": solution.solver,
                    "space": space.name,
                    "layers": layers,
                    "pairs": len(pairs),
                    "budget": budget,
                    "seconds": round(min(seconds), 3),
                    "status": str(solution.status),
                    "value": solution.value,
                }


def _adjacent(space: Any) -> list[tuple[int, int]]:
    """Return pairs of parameters: those of the same and adjacent layers, or all."""
    if space.listed:
        return list(combinations(range(len(space.parameters)), 2))
    every = combinations(range(len(space.operations)), 2)
    return [(k, m) for k, m in every if space.operations[m][0] - space.operations[k][0] <= 1]


def _objective(space: Any, terms: tuple[Any, ...], pairs: dict[Any, float]) -> Any:
    from opsearch.problem.objective import Pairwise, Separable

    if pairs:
        return Pairwise("random", "nats", space, terms, pairs, 1e-6)
    return Separable("random", "nats", space, terms, 1e-6)


def effects(space: Any, pairs: list[tuple[int, int]]) -> tuple[tuple[Any, ...], dict[Any, float]]:
    """Return random divergences of each choice alone, and random interactions of these pairs."""
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
    """Return a budget of FLOPs for one sample of 576 visual and 65 other tokens."""
    from dataclasses import replace

    from opsearch.costs.flops import Flops
    from opsearch.costs.shape import CHECKPOINTS
    from opsearch.problem.budget import Budget, constraint

    return constraint(
        Budget.parse(budget),
        Flops(replace(CHECKPOINTS["llava-1.5-7b"].shape, layers=space.num_layers)),
        space,
        [(576, 65)],
    )
