"""`opsearch front --measure`: search the front of a large space with the model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from opsearch.analysis.front import front
from opsearch.commands.front import Front
from opsearch.errors import OpsearchError
from opsearch.files import write_atomic
from opsearch.measure.engine import SampleMeasure
from opsearch.objectives.additive import Additive
from opsearch.objectives.rounding import lazy_joint, rounded
from opsearch.problem.problem import Problem
from opsearch.progress import Progress
from opsearch.runs.config import RunConfig
from opsearch.runs.exact_front import front_row, summed_front
from opsearch.runs.prepare import Prepared, prepare, settle
from opsearch.runs.run_folder import RunFolder
from opsearch.runs.session import Session, open_session
from opsearch.solvers.optuna_nsga2 import nsga2

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
