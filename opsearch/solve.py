"""Solving again from what a run stored: measure once, solve often, load no model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from opsearch.builders import identity
from opsearch.config import RunConfig
from opsearch.costs.shape import Shape
from opsearch.errors import RunFolderError
from opsearch.measure.store import Store
from opsearch.policy import Policy
from opsearch.prepare import make_constraints, make_space, parse_budgets, run_ranker
from opsearch.problem import Measure, Problem, Solution, check_budget
from opsearch.run import save_solution
from opsearch.run_folder import RunFolder
from opsearch.search import choose, search


def solve(
    folder: Path,
    budget: Sequence[str],
    objective: str | None = None,
    solver: str | None = None,
    evaluations: int = 150,
    seed: int = 0,
    out: Path | None = None,
) -> tuple[Problem, Solution, Path]:
    """Solve a run's problem under another budget, objective or solver from its measurements.

    Writes the policy and the record to `out` (default: the run's folder) and returns the problem,
    its solution and that folder. Raises RunFolderError when the run lacks the measurements.
    """
    source = RunFolder(folder)
    stored = RunConfig.load(source.config)
    chosen = {
        "budget": tuple(budget),
        "objective": objective or stored.objective,
        "solver": solver or (stored.solver if objective in (None, stored.objective) else None),
        "evaluations": evaluations,
        "seed": seed,
    }
    config = RunConfig.checked(**{**stored.model_dump(), **chosen})
    with RunFolder(out or folder).locked() as target, Store(source.measurements) as store:
        facts = store.facts
        shape = Shape(**facts["shape"])
        space = make_space(config, shape.layers, run_ranker(config, facts["model_type"]))
        samples = store.samples("calibration")
        pairs = [(s.n_visual, s.n_other) for s in samples]
        constraints = make_constraints(parse_budgets(config.budget), shape, space, pairs)
        check_budget(space, constraints)
        measure = stored_measure(store, folder)
        problem, solution = search(choose(config, 0.0), space, constraints, measure, config)
        save_solution(config, problem, solution, facts["model_type"], target)
        return problem, solution, target.path


def stored_measure(store: Store, folder: Path) -> Measure:
    """A Measure that only looks up; policies nobody measured are nan.

    Raises RunFolderError when none of the asked policies was measured.
    """
    samples = store.samples("calibration")

    def measure(policies: Sequence[Policy]) -> NDArray[np.float64]:
        table = np.full((len(policies), len(samples)), np.nan)
        original = identity(policies[0].num_layers)
        for n_visual in {s.n_visual for s in samples}:
            keys = [policy.canonical(n_visual) for policy in policies]
            found = store.get(keys)
            columns = [j for j, s in enumerate(samples) if s.n_visual == n_visual]
            for row, key in enumerate(keys):
                same = key == original.canonical(n_visual)
                for j in columns:
                    known = found.get((key, samples[j].item), np.nan)
                    table[row, j] = 0.0 if same else known
        if np.isnan(table).any(axis=1).all():
            raise RunFolderError(
                f"{folder} holds no measurements for this objective; run `opsearch run` with it "
                f"and --out {folder}"
            )
        return table

    return measure
