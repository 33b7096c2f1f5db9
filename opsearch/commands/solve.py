"""Solving again from what a run stored: measure once, solve often, load no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opsearch.costs.latency import LatencyTable, read_table
from opsearch.costs.shape import Shape
from opsearch.errors import RunFolderError
from opsearch.measure.engine import noise_floor
from opsearch.measure.storage.records import Masses, StoredSample
from opsearch.measure.storage.store import Store
from opsearch.objectives import Maker
from opsearch.objectives.attention import Attention, require_recipes
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import parse_ranker
from opsearch.problem.constraint import check_budget
from opsearch.problem.objective import Measure, Table
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Solution
from opsearch.report.page import save_report
from opsearch.runs.choose import choose
from opsearch.runs.config import RunConfig
from opsearch.runs.results import save_solution
from opsearch.runs.run_folder import RunFolder
from opsearch.runs.search import search
from opsearch.runs.setup import limits_time, make_constraints, make_space, parse_budgets
from opsearch.runs.stored import looked_up


def solve(
    folder: Path,
    budget: Sequence[str] | None = None,
    objective: str | None = None,
    solver: str | None = None,
    evaluations: int | None = None,
    seed: int | None = None,
    out: Path | None = None,
) -> tuple[Problem, Solution, Path]:
    """Solve a run's problem from its measurements; None: as the run did.

    Writes settings, policy, record and report to `out` (default: the run's folder, whose comparison
    of the earlier policy is removed) and returns the problem, its solution and that folder. Raises
    RunFolderError when the run lacks the measurements.
    """
    source = RunFolder(folder)
    stored = RunConfig.load(source.config)
    if objective not in (None, stored.objective) and solver is None:
        stored = stored.model_copy(update={"solver": None})
    given: dict[str, Any] = {"budget": budget, "objective": objective, "solver": solver}
    # What another budget's proxy would propose was not measured.
    given |= {"evaluations": evaluations, "out": out or folder, "verify": 0}
    changes = {name: value for name, value in given.items() if value is not None}
    config = RunConfig.checked(**{**stored.model_dump(), **changes})
    # The run's own seed says which samples were measured and stays in run.yaml.
    seeded = config if seed is None else RunConfig.checked(**{**config.model_dump(), "seed": seed})
    with RunFolder(out or folder).locked() as target, Store(source.measurements) as store:
        problem, solution = _solved(store, source, config, seeded)
        if stored.verify:
            note = f"{solution.note}; " if solution.note else ""
            note += "the proxy alone: --verify of `opsearch run` measures anew"
            solution = replace(solution, note=note)
        config = config.model_copy(update={"solver": solution.solver})
        config.save(target.config)
        items = [sample.item for sample in store.calibration()]
        save_solution(config, problem, solution, store.facts["model_type"], items, target)
        target.comparison.unlink(missing_ok=True)
        save_report(target.path)
        return problem, solution, target.path


def _solved(
    store: Store, source: RunFolder, config: RunConfig, seeded: RunConfig
) -> tuple[Problem, Solution]:
    """The problem of these settings from what is stored, and its solution by the seed of others."""
    shape = Shape(**store.facts["shape"])
    require_recipes(str(config.objective), config.space)
    space = make_space(config, shape.layers, parse_ranker(str(config.ranker)))
    if config.objective == "joint" and not space.listed:
        again = " --budget ".join(config.budget)
        raise RunFolderError(
            f"space {space.name!r} is too large to list, so joint is measured on demand; "
            f"`opsearch run --config {source.config} --objective joint --budget {again}` does that"
        )
    choice = choose(config, seconds=0.0, lazy=False)
    samples = store.calibration()
    if isinstance(choice.maker, Attention):
        choice = replace(choice, maker=Attention(stored_attention(store, samples, source.path)))
    pairs = [(s.n_visual, s.n_other) for s in samples]
    table = stored_table(source) if limits_time(config.budget) else None
    constraints = make_constraints(parse_budgets(config.budget), shape, space, pairs, table)
    check_budget(space, constraints)
    measure = stored_measure(store, source.path, choice.maker)
    floor = noise_floor(store, [sample.item for sample in samples])
    problem, solution = search(choice, space, constraints, measure, seeded, floor)
    told = _told(problem, solution, choice.maker.name, config, source)
    return problem, replace(solution, note="; ".join(told))


def _told(
    problem: Problem, solution: Solution, objective: str, config: RunConfig, run: RunFolder
) -> list[str]:
    """The solver's note, and what measures the points that it could not look up."""
    told = [solution.note] if solution.note else []
    made = problem.objective
    if isinstance(made, Table) and np.isnan(made.values[problem.feasible]).any():
        options = f"--objective {objective} --budget {' --budget '.join(config.budget)}"
        more = f"`opsearch run --config {run.config} {options}` measures more"
        told.append(f"{more}, with enough --effort all")
    return told


def stored_table(run: RunFolder) -> LatencyTable:
    """The latency table that the run fitted; RunFolderError where it had no budget of time."""
    if not run.latency.exists():
        raise RunFolderError(
            f"{run.path} holds no latency table, because it was run without a budget of time; "
            f"`opsearch run --config {run.config} --budget 50%latency` fits one"
        )
    return read_table(run.latency)


def stored_attention(store: Store, samples: Sequence[StoredSample], folder: Path) -> list[Masses]:
    """What the samples' visual tokens get of the attention; RunFolderError where it is not there.

    A list of float32[L, 2, N].
    """
    found = store.received([sample.item for sample in samples])
    if any(sample.item not in found for sample in samples):
        raise RunFolderError(
            f"{folder} does not hold the original's attention; `opsearch run --config "
            f"{RunFolder(folder).config} --space recipes --objective attention` reads it"
        )
    return [found[sample.item] for sample in samples]


def stored_measure(store: Store, folder: Path, maker: Maker) -> Measure:
    """A Measure that only looks up; what was not measured is nan.

    Raises RunFolderError when policies that a sum of terms needs, or all that a table asks for,
    were not measured.
    """
    samples = store.calibration()

    def measure(policies: Sequence[Policy]) -> NDArray[np.float64]:
        tables, pruned = looked_up(store, samples, policies, ("kl",))
        table: NDArray[np.float64] = tables[0]
        missing = np.asarray(np.isnan(table).any(axis=1))
        summed = maker.form in ("separable", "pairwise")
        if missing.all() or (summed and missing.any()) or missing[pruned].all():
            raise RunFolderError(
                f"{folder} does not hold the measurements for objective {maker.name}; `opsearch "
                f"run --config {RunFolder(folder).config} --objective {maker.name}` makes them"
            )
        return table

    return measure
