"""`opsearch front --measure`: search the front of a space that is too large to list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console

from opsearch.analysis.front import front
from opsearch.commands.front import Front, limits_on
from opsearch.console import PlainConsole
from opsearch.errors import OpsearchError
from opsearch.files import write_atomic
from opsearch.measure.engine import SampleMeasure
from opsearch.objectives.additive import Additive
from opsearch.objectives.rounding import lazy_joint, rounded
from opsearch.problem.problem import Problem
from opsearch.problem.spaces.operations import is_gradual
from opsearch.progress import Progress
from opsearch.runs.answer import stored_answer
from opsearch.runs.config import RunConfig
from opsearch.runs.exact_front import front_row, summed_front
from opsearch.runs.prepare import Prepared, prepare, settle
from opsearch.runs.run_folder import RunFolder
from opsearch.runs.session import Session, open_session, stored_samples
from opsearch.runs.setup import make_cost, parse_budgets
from opsearch.solvers.optuna_nsga2 import nsga2

_STAGES = 4
_STARTS = 5  # one policy in five is taken from the proxy's front


def searched_front(
    folder: Path,
    evaluations: int,
    cost: str = "flops",
    console: Console | None = None,
    out: Path | None = None,
) -> tuple[Front, Path]:
    """Search a front of the joint objective in a space that cannot be listed.

    Args:
        folder: The run folder; the model is loaded again and measured on the run's samples.
        evaluations: Maximum number of policies to measure.
        cost: Name of the cost.
        console: Console for progress; None: standard error.
        out: Folder of the file; None: the run folder.

    Returns:
        The front and its file: front_joint.csv, or front_joint_COST.csv for costs other than flops.

    Raises:
        UnknownNameError: The cost does not exist.
        OpsearchError: The policies of the space can be listed.
    """
    run = RunFolder(folder)
    given = {"out": folder, "budget": (f"100% {cost}",)}
    config = RunConfig.load(run.config)
    settled = settle(config.changed(**given))
    space = settled.settings.space
    if space.per_operation is None or is_gradual(space):
        step = (
            f"`opsearch run --config {run.config} --objective joint --complete --budget 100%` with "
            "a larger --effort measures its exact front"
        )
        raise OpsearchError(
            f"--measure {evaluations} searches a front in the spaces layers and operations, but "
            f"{folder} is a run over space {space.name!r}; "
            f"{step if space.listed else 'give a run over space layers or operations'}"
        )
    progress = Progress(console or PlainConsole(stderr=True), _STAGES)
    prepared = prepare(settled, progress, test=0)
    with open_session(prepared, run, progress, continued=True) as session:
        found = _searched(prepared, evaluations, session)
        of = make_cost(cost, prepared.shape, prepared.table)
        answer = stored_answer(folder, of, session.store, stored_samples(prepared.calibration))
    limits = limits_on(found.constraint, parse_budgets(config.budget))
    found = replace(found, budgets=limits, answer=answer)
    path = RunFolder(out or folder).front_file(cost, searched=True)
    return found, write_atomic(path, lambda file: found.table.to_csv(file, index=False))


def _searched(prepared: Prepared, evaluations: int, session: Session) -> Front:
    """Measure the proxy and start the search from its exact front."""
    settings, (whole,) = prepared.settings, prepared.constraints
    space, engine, progress = settings.space, session.engine, session.progress
    with progress.stage("measuring the additive proxy", "FLOPs") as tick:
        floor = engine.noise_floor(prepared.calibration, tick)
        measure = SampleMeasure(engine, prepared.calibration, tick)
        additive = Additive.from_settings(settings.proxy)
        proxy = rounded(additive.make(space, measure, np.zeros(0, bool)), floor)
        start = _spread(summed_front(Problem(space, proxy, (whole,))), -(-evaluations // _STARTS))
    with progress.stage(f"measuring {evaluations} policies", "FLOPs") as tick:
        measure = SampleMeasure(engine, prepared.calibration, tick)
        problem = Problem(space, lazy_joint(space, measure, floor), (whole,))
        evaluated = nsga2(problem, start, evaluations, settings.seed)
        points = list(evaluated.values)
        costs = np.array([whole.cost(point) for point in points])
        best = front(costs, np.array(list(evaluated.values.values())))
        rows = [front_row(problem, points[i], proved=False) for i in best]
    sentence = (
        f"{len(rows)} policies on the front of {len(points)} measured: {len(start)} from the front "
        f"of the additive proxy, {len(points) - len(start)} proposed by NSGA-II; no point is "
        "proved, and a larger --measure may find better ones."
    )
    return Front(
        objective="joint",
        unit="nats",
        constraint=whole,
        table=pd.DataFrame(rows),
        limit=None,
        sentence=sentence,
    )


def _spread(points: Sequence[int], most: int) -> list[int]:
    """Return at most `most` points, evenly spaced from the first to the last."""
    chosen = np.linspace(0, len(points) - 1, min(most, len(points)))
    return [points[i] for i in chosen.round().astype(int)]
