"""`opsearch front --measure`: a front of the true divergence where a space cannot be listed.

NSGA-II starts from the additive proxy's exact front and proposes policies, which are measured as
they run and stored. A search that was stopped, started again, goes on from what the folder holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.console import Console

from opsearch.analysis.front import front
from opsearch.config import RunConfig
from opsearch.errors import OpsearchError
from opsearch.files import write_atomic
from opsearch.front import Front
from opsearch.measure.engine import Engine
from opsearch.measure.planning.memory import memory_for
from opsearch.models.loading import load_model
from opsearch.objectives.additive import Additive
from opsearch.objectives.rounding import lazy_joint, with_ties
from opsearch.policy.policy import Policy
from opsearch.prepare import Prepared, prepare
from opsearch.problem.problem import Problem
from opsearch.problem.spaces.operations import LayerSpace
from opsearch.progress import Stages
from opsearch.run_folder import RunFolder
from opsearch.run_store import run_store
from opsearch.solvers.optuna_nsga2 import nsga2
from opsearch.summed_front import summed_front
from opsearch.walked_front import front_row

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
    config = RunConfig.checked(**{**stored, **given})
    stages = Stages(console or Console(stderr=True, markup=False), _STAGES)
    prepared = prepare(config, stages)
    if not isinstance(prepared.space, LayerSpace):
        step = (
            f"`opsearch run --config {run.config} --objective joint --budget 100%` with enough "
            "--effort measures its exact front"
        )
        raise OpsearchError(
            f"--measure {evaluations} searches a front in the spaces layers and operations, but "
            f"{folder} is a run over {config.space!r}; "
            f"{step if prepared.space.listed else 'use a run of space layers or operations'}"
        )
    with run.locked():
        with stages.stage("loading the model"):
            model = load_model(config.model, config.dtype, config.device, config.attention)
        with run_store(run.measurements, prepared, model) as store:
            memory = memory_for(model, config.memory)
            engine = Engine(model, store, config.positions, memory, stages.say)
            found = _searched(prepared, evaluations, engine, stages)
        suffix = "" if cost == "flops" else f"_{cost}"
        path = run.front.with_name(f"front_joint{suffix}.csv")
        return found, write_atomic(path, lambda file: found.table.to_csv(file, index=False))


def _searched(prepared: Prepared, evaluations: int, engine: Engine, stages: Stages) -> Front:
    """Measure the proxy, take its exact front, search on from there."""
    config, space, (whole,) = prepared.config, prepared.space, prepared.constraints
    with stages.stage("measuring the additive proxy", "FLOPs") as tick:
        floor = engine.noise_floor(prepared.calibration, tick)

        def measure(policies: Sequence[Policy]) -> NDArray[np.float64]:
            return engine.measure(policies, prepared.calibration, tick)

        proxy = with_ties(Additive(config.points).make(space, measure, np.zeros(0, bool)), floor)
        start = _spread(summed_front(Problem(space, proxy, (whole,))), -(-evaluations // _STARTS))
    with stages.stage(f"measuring {evaluations} policies", "FLOPs") as tick:
        problem = Problem(space, lazy_joint(space, measure, floor), (whole,))
        asked = nsga2(problem, start, evaluations, config.seed)
        points = list(asked.values)
        costs = np.array([whole.cost(point) for point in points])
        best = front(costs, np.array(list(asked.values.values())))
        rows = [front_row(problem, points[i], proved=False) for i in best]
    words = (
        f"{len(rows)} policies on the front of {len(points)} measured: {len(start)} of the front "
        f"of the additive proxy, {len(points) - len(start)} that NSGA-II proposed from there; "
        "nothing is proved, and a larger --measure may find better ones."
    )
    return Front("joint", "nats", whole, pd.DataFrame(rows), None, words)


def _spread(points: Sequence[int], most: int) -> list[int]:
    """At most so many of the points, evenly from first to last."""
    chosen = np.linspace(0, len(points) - 1, min(most, len(points)))
    return [points[i] for i in chosen.round().astype(int)]
