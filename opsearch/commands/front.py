"""`opsearch front`: the exact Pareto front of what a run stored; no model is loaded."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from opsearch.analysis.front import front, front_table
from opsearch.errors import OpsearchError
from opsearch.files import write_atomic
from opsearch.problem.budget import Budget
from opsearch.problem.constraint import Constraint
from opsearch.problem.objective import Bounded, Separable, Table
from opsearch.problem.problem import Problem
from opsearch.runs.exact_front import front_row, summed_front, walked_front
from opsearch.runs.stored import open_stored


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
