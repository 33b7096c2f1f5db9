"""A solver of your own: one class, found by its name at the command line.

    python examples/own_solver.py

In a package of your own, these lines of its pyproject.toml do what `SOLVERS[...]` does below, and
`opsearch run --solver luck` knows it as soon as it is installed:

    [project.entry-points."opsearch.solvers"]
    luck = "my_package:Luck"

`opsearch.testing.SolverConformance` holds the tests that every solver must pass.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from opsearch import RunConfig
from opsearch.problem import Form, Problem
from opsearch.run import run
from opsearch.solution import Limit, Solution, Status, infeasible, require_form, solution_at
from opsearch.solve import solve
from opsearch.solvers import SOLVERS


@dataclass(frozen=True)
class Luck:
    """Takes the best of some feasible points that are drawn by chance."""

    name: ClassVar[str] = "luck"
    exact: ClassVar[bool] = False
    forms: ClassVar[frozenset[Form]] = frozenset({"table", "separable", "blackbox"})

    def solve(self, problem: Problem, *, seed: int = 0, limit: Limit | None = None) -> Solution:
        """Draw as many points as the limit allows, 100 without one."""
        require_form(problem.objective, self)
        feasible = np.flatnonzero(problem.feasible)
        if not len(feasible):
            return infeasible(problem, self.name)
        count = min((limit and limit.evaluations) or 100, len(feasible))
        drawn = np.random.default_rng(seed).choice(feasible, count, replace=False)
        best = min(drawn.tolist(), key=problem.objective.value)
        # Value and costs are recomputed from the problem: a solver cannot be wrong about them.
        return solution_at(problem, best, Status.FEASIBLE, self.name, seed=seed, evaluations=count)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path("runs/luck"))
    given = parser.parse_args()

    SOLVERS["luck"] = Luck
    settings = {"samples": given.samples, "heldout": 0, "n_v": ("1/4", "1/2"), "budget": ("30%",)}
    run(RunConfig(**settings, objective="additive", solver="ortools", out=given.out))
    for name in ("ortools", "luck"):
        _, solution, _ = solve(given.out, solver=name, evaluations=20, out=given.out / name)
        print(f"{name}: {solution.value:.3f} {solution.unit}, {solution.status}: ", end="")
        print(solution.policy.name)


if __name__ == "__main__":
    main()
