"""Suite `solvers`: milliseconds of a solve.

grid and ortools on the dop space of a 32-layer decoder (33 x 33 x 16 combinations, 8,449 distinct
policies), costs of LLaVA-1.5-7B's shape, random monotone divergences.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from benchmarks.rows import BenchmarkRow


def solvers(layers: int = 32, repeats: tuple[int, int] = (50, 5)) -> Iterator[BenchmarkRow]:
    """Yield a row per budget and solver: median milliseconds, status, agreement with grid.

    Args:
        layers: Layers of the decoder.
        repeats: Timed solves of grid and of ortools.
    """
    from opsearch.costs.flops import Flops
    from opsearch.costs.shape import CHECKPOINTS
    from opsearch.problem.budget import Budget, constraint
    from opsearch.problem.objective import KL_QUANTUM, Separable
    from opsearch.problem.problem import Problem
    from opsearch.problem.spaces.depth import dop_space
    from opsearch.solvers.grid import Grid
    from opsearch.solvers.ortools import CpSat

    shape = replace(CHECKPOINTS["llava-1.5-7b"].shape, layers=layers)
    space = dop_space(layers)
    rng = np.random.default_rng(0)
    terms = [np.sort(rng.lognormal(-3, 2, len(p.values)))[::-1] for p in space.parameters]
    terms = [np.round((term - term[-1]) / KL_QUANTUM) * KL_QUANTUM for term in terms]
    objective = Separable("random", "nats", space, tuple(terms), KL_QUANTUM)
    for budget in ("15%", "30%", "50%"):
        limit = constraint(Budget.parse(budget), Flops(shape), space, [(576, 65)] * 64)
        best = Grid().solve(Problem(space, objective, (limit,)))
        for solver, times_solved in zip((Grid(), CpSat()), repeats, strict=True):
            times = []
            for _ in range(times_solved):
                problem = Problem(space, objective, (limit,))  # fresh: nothing is cached in it
                start = time.perf_counter()
                solution = solver.solve(problem)
                times.append(1e3 * (time.perf_counter() - start))
            yield {
                "solver": solver.name,
                "points": len(space.points),
                "budget": budget,
                "median_ms": round(statistics.median(times), 3),
                "max_ms": round(max(times), 3),
                "status": str(solution.status),
                "same_point_as_grid": solution.point == best.point,
            }
