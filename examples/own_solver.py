"""A solver of your own: one class, selected by its name at the command line.

    python examples/own_solver.py

In your own package, these lines of pyproject.toml replace `SOLVERS[...]` below, and
`opsearch run --solver luck` finds the solver once the package is installed:

    [project.entry-points."opsearch.solvers"]
    luck = "my_package:Luck"

Every solver must pass the tests of `opsearch.testing.SolverConformance`.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from opsearch import RunConfig
from opsearch.commands.run import run
from opsearch.commands.solve import solve
from opsearch.problem.objective import Form
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Limit, Solution, Status, infeasible, require_form, solution_at
from opsearch.solvers import SOLVERS


@dataclass(frozen=True)
class Luck:
    """Solver that takes the best of some random feasible points."""

    name: ClassVar[str] = "luck"
    exact: ClassVar[bool] = False
    forms: ClassVar[frozenset[Form]] = frozenset({"table", "separable", "blackbox"})

    def solve(self, problem: Problem, *, seed: int = 0, limit: Limit | None = None) -> Solution:
        """Return the best of as many random points as the limit allows, 100 by default."""
        require_form(problem.objective, self)
        feasible = np.flatnonzero(problem.feasible)
        if not len(feasible):
            return infeasible(problem, self.name)
        count = min((limit and limit.evaluations) or 100, len(feasible))
        drawn = np.random.default_rng(seed).choice(feasible, count, replace=False)
        best = min(drawn.tolist(), key=problem.objective.value)
        # Value and costs are recomputed from the problem, so that a solver cannot misstate them.
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
