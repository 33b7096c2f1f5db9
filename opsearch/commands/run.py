"""The one entry: a RunConfig becomes measurements, a solution, a policy file and a table.

Everything measured is in the run folder's store before it is used, so an interrupted run goes on
where it stopped when it is started again with the same settings.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from rich.console import Console

from opsearch.costs.latency import write_table
from opsearch.evaluation.run_table import compare, table
from opsearch.files import write_atomic
from opsearch.measure.engine import Engine
from opsearch.measure.planning.memory import memory_for
from opsearch.measure.received_attention import received_attention
from opsearch.measure.storage.records import CALIBRATION, HELD_OUT
from opsearch.measure.workers.cluster import Workers, started
from opsearch.measure.workers.worker import Source
from opsearch.models.loading import fingerprint, load_model
from opsearch.objectives.additive import Additive
from opsearch.objectives.attention import Attention
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Solution
from opsearch.problem.spaces.stages import StageSpace
from opsearch.progress import Stages
from opsearch.report.page import save_report
from opsearch.runs.config import RunConfig
from opsearch.runs.prepare import Prepared, prepare
from opsearch.runs.results import save_solution
from opsearch.runs.run_folder import RunFolder, save_environment
from opsearch.runs.search import search
from opsearch.runs.session import run_store, stored_samples
from opsearch.runs.setup import limits_time, make_cost
from opsearch.timing.policy_latency import TimedPrefill, timed_prefill

_STAGES, _STAGES_OF_TIME = 7, 2


@dataclass(frozen=True)
class RunResult:
    """What a run leaves: settings as completed, problem, solution, table, folder.

    prefill: predicted and real time of the policy, None without a budget of time.
    """

    config: RunConfig
    problem: Problem
    solution: Solution
    comparison: pd.DataFrame
    folder: Path
    prefill: TimedPrefill | None = None


def run(
    config: RunConfig,
    console: Console | None = None,
    command: str | None = None,
    workers: Workers | None = None,
) -> RunResult:
    """Search a policy and compare it; raises OpsearchError with one sentence for anything wrong.

    command: the command line as typed, for the report; workers: None: this process measures.
    """
    total = _STAGES + (_STAGES_OF_TIME if limits_time(config.budget) else 0)
    total -= config.space == StageSpace.name  # where no parameter is measured alone
    stages = Stages(console or Console(stderr=True, markup=False), total)
    prepared = prepare(config, stages, if_answered=1)
    config, choice = prepared.config, prepared.choice
    if choice.reason:
        stages.say(choice.reason)
    model_of = (config.model, config.dtype, config.device, config.attention)
    source = Source(*model_of, config.positions)
    with RunFolder(config.out).locked() as folder, started(workers, source, stages.say) as pool:
        config.save(folder.config)
        if prepared.table is not None:  # so that runs and solves in this folder use the same
            write_table(prepared.table, folder.latency)
        with stages.stage("loading the model"):
            model = load_model(*model_of)
            if pool:
                pool.meet(fingerprint(model))
        with run_store(folder.measurements, prepared, model) as store:
            memory = memory_for(model, config.memory)
            engine = Engine(model, store, config.positions, memory, stages.say, pool)
            problem, solution = _searched(prepared, engine, stages)
            assert solution.policy is not None  # search() raises otherwise
            # Only now, so that an interrupted run leaves an earlier one as it was.
            store.put_samples(CALIBRATION, stored_samples(prepared.calibration))
            store.put_samples(HELD_OUT, stored_samples(prepared.heldout))
            comparison = table(compare(prepared, solution.policy, engine, stages))
        prefill = None
        if prepared.table is not None:
            latency = make_cost("latency", prepared.shape, prepared.table)
            with stages.stage("timing the policy"):
                prefill = timed_prefill(model, prepared.calibration, latency, solution.policy)
        items = [sample.digest for sample in prepared.calibration]
        with stages.stage("drawing figures, writing the report"):
            save_solution(config, problem, solution, prepared.model_type, items, folder)
            write_atomic(folder.comparison, lambda file: comparison.to_csv(file))
            save_environment(folder, config.device, stages.seconds, command, prefill)
            save_report(folder.path)
        return RunResult(config, problem, solution, comparison, folder.path, prefill)


def _searched(prepared: Prepared, engine: Engine, stages: Stages) -> tuple[Problem, Solution]:
    """Measure the objective and solve; then measure what figures show of each parameter alone."""
    config, choice = prepared.config, prepared.choice
    if isinstance(choice.maker, Attention):
        with stages.stage("reading the original's attention") as tick:
            read = received_attention(engine.model, engine.store, prepared.calibration, tick)
        choice = replace(choice, maker=Attention(read))
    with stages.stage(f"measuring {choice.maker.name}, solving", "FLOPs") as tick:
        floor = engine.noise_floor(prepared.calibration, tick)
        found = search(
            choice,
            prepared.space,
            prepared.constraints,
            lambda policies: engine.measure(policies, prepared.calibration, tick),
            config,
            floor,
        )
    if prepared.space.parameters_act_alone:
        with stages.stage("measuring each parameter alone", "FLOPs") as tick:
            single = Additive(config.points).policies(prepared.space)
            engine.measure(single, prepared.calibration, tick)
    return found
