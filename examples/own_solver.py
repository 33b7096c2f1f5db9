"""A solver of your own: one class.

    python examples/own_solver.py

`opsearch.search` takes the object, as below. In a package of your own, these lines of
pyproject.toml give it a name, and `opsearch run --solver luck` finds it once that is installed:

    [project.entry-points."opsearch.solvers"]
    luck = "my_package:Luck"

Every solver must pass the tests of `opsearch.testing.SolverConformance`.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

import opsearch
from opsearch.problem import (
    Form,
    Limit,
    Problem,
    Solution,
    Space,
    Status,
    evaluations_within,
    solution_at,
    solved,
)


@dataclass(frozen=True)
class Luck:
    """Solver that takes the best of some random feasible points."""

    name: ClassVar[str] = "luck"
    exact: ClassVar[bool] = False
    forms: ClassVar[frozenset[Form]] = frozenset({"table", "separable", "blackbox"})
    takes_start: ClassVar[bool] = False

    def require(self, space: Space) -> None:
        """Raise OpsearchError for a space too large to list."""
        if not space.listed:
            space.raise_unlistable()

    def solve(self, problem: Problem, *, seed: int = 0, limit: Limit | None = None) -> Solution:
        """Return the best of as many random points as the limit allows, 100 by default."""

        def search() -> Solution:
            feasible = np.flatnonzero(problem.feasible)
            count = min(evaluations_within(limit, 100), len(feasible))
            drawn = np.random.default_rng(seed).choice(feasible, count, replace=False)
            best = min(drawn.tolist(), key=problem.objective.value)
            # Value and costs come from the problem, so that a solver cannot misstate them.
            return solution_at(problem, best, Status.FEASIBLE, self.name, evaluations=count)

        # Refuses other forms, answers impossible budgets, and records seed, time and version.
        return solved(self, problem, seed, "numpy", search)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path("runs/luck"))
    given = parser.parse_args()

    model, processor = opsearch.load_model("demo")
    items = opsearch.load_items("demo", samples=given.samples)
    settings = {"n_v": ("1/4", "1/2"), "objective": "additive", "evaluations": 20}
    for solver in ("ortools", Luck()):
        # The same folder: what one search has measured, the other looks up.
        found = opsearch.search(
            model, processor, items, solver=solver, out=given.out, progress=False, **settings
        )
        print(f"{found.solution.solver}: {found.value:.3f} {found.solution.unit}, ", end="")
        print(f"{found.status}: {found.policy.name}")


if __name__ == "__main__":
    main()
