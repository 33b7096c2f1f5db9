"""`opsearch front`: the Pareto front of cost and objective, from the measurements of a run."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from opsearch.analysis.front import front, front_table
from opsearch.costs.exact import Integers
from opsearch.errors import OpsearchError
from opsearch.files import write_atomic
from opsearch.formatting import screen_repr
from opsearch.problem.budget import Budget
from opsearch.problem.constraint import Constraint
from opsearch.problem.objective import PROXIES, Bounded, Separable, Table
from opsearch.problem.problem import Problem
from opsearch.runs.answer import Answer, stored_answer
from opsearch.runs.exact_front import front_row, summed_front, walked_front
from opsearch.runs.run_folder import RunFolder
from opsearch.runs.setup import make_cost
from opsearch.runs.stored import open_stored


@dataclass(frozen=True, eq=False)
class Front:
    """Points of a space that no other known point beats in both cost and objective.

    Attributes:
        objective: Name of the objective.
        unit: Unit of its values.
        constraint: The cost; its limit is the original model's cost.
        table: One row per point, by rising cost: parameters, `cost` (exact integer over all
            samples), its mean per sample and share of the original's, `value` in `unit`, and
            `proved`: no other point can beat it.
        limit: Lowest cost of a listed point without a value, None if all have one; a point measured
            on some samples only has none.
        sentence: How the front was found, which points are proved, and the next step for the rest.
        proxy: True if the objective is a sum of terms, not the divergence of policies as they run.
        budgets: Limits of the run on this cost, as total costs.
        answer: The policy of the run; None if it has none yet.
    """

    objective: str
    unit: str
    constraint: Constraint
    table: pd.DataFrame
    limit: int | None
    sentence: str
    proxy: bool = False
    budgets: tuple[int, ...] = ()
    answer: Answer | None = None

    @property
    def header(self) -> str:
        """Title of the values: the objective and its unit."""
        return f"{self.objective}{' proxy' * self.proxy}, {self.unit}"

    @property
    def proof_label(self) -> str:
        """Label of points that no other point can beat."""
        return "proved for the proxy" if self.proxy else "proved"

    __repr__ = screen_repr

    @property
    def per_sample(self) -> str:
        """Name of the column with the mean cost per sample."""
        return f"{self.constraint.name}_per_sample"

    def thinned(self, most: int) -> pd.DataFrame:
        """Return at most `most` rows, evenly by cost.

        Among them are the first and the last one, and the two next to each budget.
        """
        costs = self.table["cost"].tolist()
        if len(costs) <= most:
            return self.table
        last = len(costs) - 1
        above = [bisect_right(costs, budget) for budget in self.budgets]
        kept = {0, last, *(min(max(row, 0), last) for at in above for row in (at - 1, at))}
        spread = np.array(costs, np.float64)
        apart = np.abs(spread[:, None] - spread[list(kept)]).min(axis=1)
        while len(kept) < most:
            kept.add(farthest := int(apart.argmax()))
            apart = np.minimum(apart, np.abs(spread - spread[farthest]))
        return self.table.iloc[sorted(kept)]


_MOST_WALKED = 500  # points of a front that is found by successive integer programs


def run_front(folder: Path, cost: str = "flops", out: Path | None = None) -> tuple[Front, Path]:
    """Compute the front of a run's objective over its space and write it.

    Args:
        folder: The run folder.
        cost: Name of the cost.
        out: Folder of the file; None: the run folder.

    Returns:
        The front and its file: front.csv, or front_COST.csv for costs other than flops.

    Raises:
        RunFolderError: The run lacks measurements.
        UnknownNameError: The cost does not exist.
        OpsearchError: The objective has no value per point.
    """
    with open_stored(folder) as run:
        settings = run.settings
        assert settings.objective is not None  # a stored run names it
        space, measure = settings.space, run.measure(settings.objective)
        (whole,) = run.constraints([Budget.parse(f"100% {cost}")])
        every = np.ones(len(space.points) if space.listed else 0, bool)
        objective = settings.objective.make(space, measure, every)
        table = run.latency_table() if whole.timed else None
        answer = stored_answer(folder, make_cost(cost, run.shape, table), run.store, run.samples)
        limits = limits_on(whole, settings.budgets)
    found = replace(_front(Problem(space, objective, (whole,))), budgets=limits, answer=answer)
    path = RunFolder(out or folder).front_file(cost)
    return found, write_atomic(path, lambda file: found.table.to_csv(file, index=False))


def limits_on(constraint: Constraint, budgets: Sequence[Budget]) -> tuple[int, ...]:
    """Return the limits that budgets set to the cost of a constraint, as total costs."""
    return tuple(
        budget.limit(constraint.stock, constraint.samples)
        for budget in budgets
        if budget.cost == constraint.name
    )


def _front(problem: Problem) -> Front:
    """Return the front by enumeration, dynamic programming or successive integer programs."""
    objective, (whole,) = problem.objective, problem.constraints
    if isinstance(objective, Bounded):
        raise OpsearchError(
            f"objective {objective.name!r} defines one policy per budget and therefore has no "
            "front; solve the run at several budgets, e.g. `opsearch solve RUN --budget 20%`, or "
            "use --objective joint in another space"
        )
    proxy = objective.form in PROXIES
    make = partial(
        Front, objective=objective.name, unit=objective.unit, constraint=whole, proxy=proxy
    )
    if not problem.space.listed and isinstance(objective, Separable):
        rows = [front_row(problem, index, proved=True) for index in summed_front(problem)]
        found = make(table=pd.DataFrame(rows), limit=None, sentence="")
        sentence = (
            f"{len(rows):,} policies on the front, by dynamic programming: the front is complete "
            f"and every point is {found.proof_label}."
        )
        return replace(found, sentence=f"{sentence}{_of_proxy(found)}")
    if not problem.space.listed:
        table, everything = walked_front(problem, _MOST_WALKED)
        found = make(table=table, limit=None, sentence="")
        return replace(found, sentence=f"{_walked(found, everything)}{_of_proxy(found)}")
    if not isinstance(objective, Table | Separable):
        raise OpsearchError(
            f"objective {objective.name!r} has form {objective.form}, which has no front by "
            "enumeration; solve the run with --objective joint"
        )
    lower = objective.lower if isinstance(objective, Table) else None
    exact, limit = proof(whole.listed, objective.values, lower)
    named = front_table(problem.space, whole, objective.values)
    table = pd.concat([named, exact], axis=1)
    known = int((~np.isnan(objective.values)).sum())
    found = make(table=table, limit=limit, sentence="")
    sentence = f"{_listed(found, len(objective.values), known)}{_of_proxy(found)}"
    return replace(found, sentence=sentence)


def _of_proxy(front: Front) -> str:
    """Return what the values of a proxy are not; empty for a measured divergence."""
    return " Policies as they run may have another KL." if front.proxy else ""


def _listed(found: Front, policies: int, known: int) -> str:
    """Describe which points of a front by enumeration are proved, and how to prove the rest."""
    size, proved = len(found.table), int(found.table["proved"].sum())
    start = f"{size:,} policies on the front of {found.objective} over {found.constraint.name}"
    start += ", by enumeration"
    if found.limit is None:
        return (
            f"{start}: all {policies:,} policies of the space are known; every point is "
            f"{found.proof_label}."
        )
    return (
        f"{start}; {proved:,} of them are {found.proof_label}: {known:,} of {policies:,} policies "
        "of the space were measured on all samples, and the cheapest other policy costs "
        f"{found.constraint.describe(found.limit)}; `opsearch run` with --complete and a larger "
        "--budget and --effort measures more."
    )


def _walked(found: Front, everything: bool) -> str:
    """Describe which points of a front by successive integer programs are proved."""
    size, proved = len(found.table), int(found.table["proved"].sum())
    start = f"{size:,} policies on the front, by integer programs from the highest cost down"
    if everything:
        return f"{start}: the front is complete and every point is {found.proof_label}."
    if proved == size:
        rest = "cheaper points exist but were not computed"
        return f"{start}: every point is {found.proof_label}; {rest}."
    return (
        f"{start}: {proved:,} are {found.proof_label}; the front may have further points between "
        "the others."
    )


def proof(
    costs: Integers, values: NDArray[np.float64], lower: NDArray[np.float64] | None = None
) -> tuple[pd.DataFrame, int | None]:
    """Find the front of measured points.

    A point without a value (nan) could beat every point that costs as much or more and whose value
    is not below its lower bound.

    Args:
        costs: Cost of each point, exact integers [P].
        values: Value of each point, nan where unknown, float64[P].
        lower: Lower bound of each value, nan where nothing is known of it, float64[P]; None: no
            bound is known. No value is negative.

    Returns:
        A table with the exact `cost` of each point of the front and whether it is `proved`, and the
        lowest cost of an unknown point, None if all are known.
    """
    rows = front(costs, values)
    unknown = np.isnan(values)
    limit = int(costs[unknown].min()) if unknown.any() else None
    bounds = np.zeros(len(costs)) if lower is None else np.nan_to_num(lower)
    order = np.flatnonzero(unknown)[np.argsort(costs[unknown], kind="stable")]
    # The lowest bound of the unknown points up to each cost; infinite below the first one.
    least = np.minimum.accumulate(np.append(np.inf, bounds[order]))
    proved = least[np.searchsorted(costs[order], costs[rows], side="right")] > values[rows]
    return pd.DataFrame({"cost": costs[rows], "proved": proved}), limit
