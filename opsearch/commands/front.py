"""`opsearch front`: the exact Pareto front of what a run stored; no model is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console

from opsearch.analysis.front import front, front_table
from opsearch.errors import OpsearchError
from opsearch.files import write_atomic
from opsearch.measure.engine import SampleMeasure
from opsearch.objectives.additive import Additive
from opsearch.objectives.rounding import lazy_joint, rounded
from opsearch.problem.budget import Budget
from opsearch.problem.constraint import Constraint
from opsearch.problem.objective import Bounded, Separable, Table
from opsearch.problem.problem import Problem
from opsearch.progress import Progress
from opsearch.runs.config import RunConfig
from opsearch.runs.exact_front import front_row, summed_front, walked_front
from opsearch.runs.prepare import Prepared, prepare, settle
from opsearch.runs.run_folder import RunFolder
from opsearch.runs.session import Session, open_session
from opsearch.runs.stored import open_stored
from opsearch.solvers.optuna_nsga2 import nsga2


@dataclass(frozen=True, eq=False)
class Front:
    """The points of a space that no other known one beats in both cost and value.

    constraint: the cost, with the stock model's as limit. table: by rising cost the parameters,
    `cost` (an exact integer over all samples), its mean per sample and share of the stock model's,
    `value` in `unit`, `proved`: no other point can beat it. limit: the lowest cost of a listed
    point without a value, None where there are none. sentence: what is proved and how, and what
    would prove the rest.
    """

    objective: str
    unit: str
    constraint: Constraint
    table: pd.DataFrame
    limit: int | None
    sentence: str

    @property
    def per_sample(self) -> str:
        """The column of the mean cost per sample."""
        return f"{self.constraint.name}_per_sample"


_MOST_WALKED = 500  # points of a front that has to be walked


def run_front(folder: Path, cost: str = "flops") -> tuple[Front, Path]:
    """The front of a run's objective over its space, also written as front.csv to its folder.

    With another cost than flops the file is named after it. Raises RunFolderError when the run
    lacks the measurements, UnknownNameError for a cost that does not exist, OpsearchError for an
    objective without a value per point.
    """
    with open_stored(folder) as run:
        settings = run.settings
        assert settings.objective is not None  # a stored run names it
        space, measure = settings.space, run.measure(settings.objective)
        (whole,) = run.constraints([Budget.parse(f"100% {cost}")])
        every = np.ones(len(space.points) if space.listed else 0, bool)
        objective = settings.objective.make(space, measure, every)
    found = _front(Problem(space, objective, (whole,)))
    file = run.folder.front
    path = file if cost == "flops" else file.with_name(f"front_{cost}.csv")
    return found, write_atomic(path, lambda file: found.table.to_csv(file, index=False))


def _front(problem: Problem) -> Front:
    """The front of what is known of a problem: listed, summed up, or walked."""
    objective, (whole,) = problem.objective, problem.constraints
    if isinstance(objective, Bounded):
        raise OpsearchError(
            f"objective {objective.name!r} has one policy for each budget and no front; solve the "
            "run for several, e.g. --budget 20%, or use --objective joint in another space"
        )
    if not problem.space.listed and isinstance(objective, Separable):
        rows = [front_row(problem, index, proved=True) for index in summed_front(problem)]
        words = (
            f"{len(rows)} policies on the front, by dynamic programming: every point is proved, "
            "and there are no others."
        )
        return Front(
            objective=objective.name,
            unit=objective.unit,
            constraint=whole,
            table=pd.DataFrame(rows),
            limit=None,
            sentence=words,
        )
    if not problem.space.listed:
        table, everything = walked_front(problem, _MOST_WALKED)
        words = _walked(table, everything)
        return Front(
            objective=objective.name,
            unit=objective.unit,
            constraint=whole,
            table=table,
            limit=None,
            sentence=words,
        )
    if not isinstance(objective, Table | Separable):
        raise OpsearchError(
            f"objective {objective.name!r} is a {objective.form} and has no front by enumeration; "
            "solve the run with --objective joint"
        )
    exact, limit = proof(whole.listed, objective.values)
    named = front_table(problem.space, whole, objective.values)
    table = pd.concat([named, exact], axis=1)
    known = int((~np.isnan(objective.values)).sum())
    found = Front(
        objective=objective.name,
        unit=objective.unit,
        constraint=whole,
        table=table,
        limit=limit,
        sentence="",
    )
    return replace(found, sentence=_listed(found, len(objective.values), known))


def _listed(found: Front, policies: int, known: int) -> str:
    """What is proved of a front by enumeration, and what would prove the rest."""
    size, proved = len(found.table), int(found.table["proved"].sum())
    of = f"{size} policies on the front of {found.objective} over {found.constraint.name}"
    of += ", by enumeration"
    if found.limit is None:
        return f"{of}: all {policies:,} of the space are known, every point is proved."
    return (
        f"{of}, the first {proved} proved: {known:,} of the space's {policies:,} are known, and "
        f"the cheapest unknown one costs {found.constraint.describe(found.limit)}; `opsearch run` "
        "with a larger --budget and --effort measures more."
    )


def _walked(table: pd.DataFrame, everything: bool) -> str:
    """What is proved of a front that was walked down from the original model."""
    size, proved = len(table), int(table["proved"].sum())
    of = f"{size} policies on the front, by integer programs from the top down"
    if everything:
        return f"{of}: every point is proved, and there are no others."
    if proved == size:
        return f"{of}: every point is proved; below the cheapest one there are more."
    return f"{of}: {proved} are proved, others may lie between the rest."


def proof(costs: NDArray[np.int64], values: NDArray[np.float64]) -> tuple[pd.DataFrame, int | None]:
    """Exact cost of each point of the front, whether it is proved, and up to which cost all are.

    A point without value (nan) may have any: it can beat every point that costs as much or more.
    """
    rows = front(costs, values)
    unknown = np.isnan(values)
    limit = int(costs[unknown].min()) if unknown.any() else None
    proved = np.ones(len(rows), bool) if limit is None else costs[rows] < limit
    return pd.DataFrame({"cost": costs[rows], "proved": proved}), limit


_STAGES = 4
_STARTS = 5  # one in so many policies is of the proxy's front


def searched_front(
    folder: Path, evaluations: int, cost: str = "flops", console: Console | None = None
) -> tuple[Front, Path]:
    """The front of at most `evaluations` policies of a run's space, measured on its samples.

    Also written as front_joint.csv to its folder, with another cost than flops named after that
    too. Raises OpsearchError for a space whose policies can be listed, UnknownNameError for a cost
    that does not exist.
    """
    run = RunFolder(folder)
    stored = RunConfig.load(run.config).model_dump()
    given = {"heldout": 0, "out": folder, "budget": (f"100% {cost}",)}
    settled = settle(RunConfig.checked(**{**stored, **given}))
    space = settled.settings.space
    if space.per_operation is None:
        step = (
            f"`opsearch run --config {run.config} --objective joint --budget 100%` with enough "
            "--effort measures its exact front"
        )
        raise OpsearchError(
            f"--measure {evaluations} searches a front in the spaces layers and operations, but "
            f"{folder} is a run over {space.name!r}; "
            f"{step if space.listed else 'use a run of space layers or operations'}"
        )
    stages = Progress(console or Console(stderr=True, markup=False), _STAGES)
    prepared = prepare(settled, stages)
    with open_session(prepared, run, stages) as session:
        found = _searched(prepared, evaluations, session)
    suffix = "" if cost == "flops" else f"_{cost}"
    path = run.front.with_name(f"front_joint{suffix}.csv")
    return found, write_atomic(path, lambda file: found.table.to_csv(file, index=False))


def _searched(prepared: Prepared, evaluations: int, session: Session) -> Front:
    """Measure the proxy, take its exact front, and search on from there."""
    settings, (whole,) = prepared.settings, prepared.constraints
    space, engine, stages = settings.space, session.engine, session.progress
    with stages.stage("measuring the additive proxy", "FLOPs") as tick:
        floor = engine.noise_floor(prepared.calibration, tick)
        measure = SampleMeasure(engine, prepared.calibration, tick)
        additive = Additive.from_settings(settings.proxy)
        proxy = rounded(additive.make(space, measure, np.zeros(0, bool)), floor)
        start = _spread(summed_front(Problem(space, proxy, (whole,))), -(-evaluations // _STARTS))
    with stages.stage(f"measuring {evaluations} policies", "FLOPs") as tick:
        measure = SampleMeasure(engine, prepared.calibration, tick)
        problem = Problem(space, lazy_joint(space, measure, floor), (whole,))
        asked = nsga2(problem, start, evaluations, settings.seed)
        points = list(asked.values)
        costs = np.array([whole.cost(point) for point in points])
        best = front(costs, np.array(list(asked.values.values())))
        rows = [front_row(problem, points[i], proved=False) for i in best]
    words = (
        f"{len(rows)} policies on the front of {len(points)} measured: {len(start)} of the front "
        f"of the additive proxy, {len(points) - len(start)} that NSGA-II proposed from there; "
        "nothing is proved, and a larger --measure may find better ones."
    )
    return Front(
        objective="joint",
        unit="nats",
        constraint=whole,
        table=pd.DataFrame(rows),
        limit=None,
        sentence=words,
    )


def _spread(points: Sequence[int], most: int) -> list[int]:
    """At most so many of the points, evenly from first to last."""
    chosen = np.linspace(0, len(points) - 1, min(most, len(points)))
    return [points[i] for i in chosen.round().astype(int)]
