"""`opsearch front`: the exact Pareto front of what a run stored; no model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from opsearch.analysis.pareto import front, front_table
from opsearch.budget import space_costs, total_cost
from opsearch.builders import identity
from opsearch.config import RunConfig
from opsearch.costs import COSTS
from opsearch.costs.shape import Shape
from opsearch.errors import OpsearchError
from opsearch.files import write_atomic
from opsearch.measure.store import Store
from opsearch.objectives import OBJECTIVES, Maker
from opsearch.objectives.additive import Additive
from opsearch.policy import RankerSpec
from opsearch.problem import Constraint, Separable, Table
from opsearch.problem_setup import make_space
from opsearch.registry import lookup
from opsearch.run_folder import RunFolder
from opsearch.solve import stored_measure


@dataclass(frozen=True, eq=False)
class Front:
    """The points of a space that no other known one beats in both cost and value.

    constraint: the cost, with the stock model's as limit. table: by rising cost the parameters,
    `cost` (an exact integer over all samples), its mean per sample and share of the stock model's,
    `value` in `unit`, `proved`: no point without a value can beat it. known: points of all
    `policies` that have a value; limit: the lowest cost of the others, None where there are none.
    """

    objective: str
    unit: str
    constraint: Constraint
    table: pd.DataFrame
    policies: int
    known: int
    limit: int | None

    @property
    def per_sample(self) -> str:
        """The column of the mean cost per sample."""
        return f"{self.constraint.name}_per_sample"

    @property
    def sentence(self) -> str:
        """What is proved of the front, and what would prove the rest."""
        size, proved = len(self.table), int(self.table["proved"].sum())
        of = f"{size} policies on the front of {self.objective} over {self.constraint.name}"
        if self.limit is None:
            return f"{of}: all {self.policies:,} of the space are known, every point is proved."
        return (
            f"{of}, the first {proved} proved: {self.known:,} of the space's {self.policies:,} are "
            f"known, and the cheapest unknown one costs {self.constraint.describe(self.limit)}; "
            "`opsearch run` with a larger --budget and --effort measures more."
        )


def run_front(folder: Path, cost: str = "flops") -> tuple[Front, Path]:
    """The front of a run's objective over its space, also written as front.csv to its folder.

    With another cost than flops the file is named after it. Raises RunFolderError when the run
    lacks the measurements, UnknownNameError for a cost that does not exist, OpsearchError for an
    objective without a value per point.
    """
    run = RunFolder(folder)
    config = RunConfig.load(run.config)
    with Store(run.measurements) as store:
        shape = Shape(**store.facts["shape"])
        space = make_space(config, shape.layers, RankerSpec(str(config.ranker)))
        pairs = [(s.n_visual, s.n_other) for s in store.calibration()]
        counted = lookup("costs", cost, COSTS)(shape)
        costs = space_costs(counted, space, pairs)
        stock = total_cost(counted, identity(shape.layers), pairs)
        maker = _maker(config)
        measure = stored_measure(store, folder, maker.form)
        objective = maker.make(space, measure, np.ones(len(costs), bool))
    if not isinstance(objective, Table | Separable):
        raise OpsearchError(
            f"objective {objective.name!r} is a {objective.form} and has no front by enumeration; "
            "solve the run with --objective joint"
        )
    constraint = Constraint(counted.name, counted.unit, costs, stock, stock, len(pairs))
    exact, limit = proof(costs, objective.values)
    named = front_table(space, constraint, objective.values)
    known = int((~np.isnan(objective.values)).sum())
    table = pd.concat([named, exact], axis=1)
    found = Front(objective.name, objective.unit, constraint, table, len(costs), known, limit)
    path = run.front if cost == "flops" else run.front.with_name(f"front_{cost}.csv")
    return found, write_atomic(path, lambda file: table.to_csv(file, index=False))


def proof(costs: NDArray[np.int64], values: NDArray[np.float64]) -> tuple[pd.DataFrame, int | None]:
    """Exact cost of each point of the front, whether it is proved, and up to which cost all are.

    A point without value (nan) may have any: it can beat every point that costs as much or more.
    """
    rows = front(costs, values)
    unknown = np.isnan(values)
    limit = int(costs[unknown].min()) if unknown.any() else None
    proved = np.ones(len(rows), bool) if limit is None else costs[rows] < limit
    return pd.DataFrame({"cost": costs[rows], "proved": proved}), limit


def _maker(config: RunConfig) -> Maker:
    """What makes the run's objective from stored measurements."""
    if config.objective == "additive":
        return Additive(config.points)
    maker: Maker = lookup("objectives", str(config.objective), OBJECTIVES)()
    return maker
