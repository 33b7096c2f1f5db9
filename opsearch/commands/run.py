"""`opsearch run`: search a policy, compare it with baselines, save it.

Everything measured is in the run folder's store before it is used, so an interrupted run goes on
where it stopped when it is started again with the same settings.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console

from opsearch.evaluation.run_table import compare, table
from opsearch.files import write_atomic
from opsearch.measure.storage.records import CALIBRATION, HELD_OUT
from opsearch.measure.workers.cluster import Workers
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Solution
from opsearch.progress import Progress
from opsearch.report.page import save_report
from opsearch.runs.config import RunConfig
from opsearch.runs.prepare import prepare, settle
from opsearch.runs.results import save_solution
from opsearch.runs.run_folder import RunFolder, save_environment
from opsearch.runs.search import measured_search
from opsearch.runs.session import open_session, stored_samples
from opsearch.runs.setup import make_cost
from opsearch.timing.policy_latency import TimedPrefill, timed_prefill

_STAGES, _STAGES_OF_TIME = 6, 2


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """What a run leaves.

    Attributes:
        config: The settings, all defaults resolved.
        problem: The problem that was solved.
        solution: Its solution.
        comparison: The final table.
        folder: The run folder.
        prefill: Predicted and real time of the policy; None without a budget of time.
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
    """Search a policy and compare it with baselines at equal cost.

    Args:
        config: The settings.
        console: Where progress is shown; None: standard error.
        command: The command line as typed, for the report.
        workers: Processes that measure; None: this one does.

    Raises:
        OpsearchError: Anything is wrong; one sentence says what and what to do.
    """
    settled = settle(config)
    settings = settled.settings
    total = _STAGES + settings.space.parameters_act_alone + _STAGES_OF_TIME * settings.timed
    stages = Progress(console or Console(stderr=True, markup=False), total)
    prepared = prepare(settled, stages, if_answered=1)
    if prepared.choice.reason:
        stages.say(prepared.choice.reason)
    folder, prefill = RunFolder(config.out), None
    with open_session(prepared, folder, stages, workers) as session:
        prepared.config.save(folder.config)
        problem, solution = measured_search(prepared, session)
        assert solution.policy is not None  # measured_search() raises otherwise
        # Only now, so that an interrupted run leaves an earlier one as it was.
        session.store.put_samples(CALIBRATION, stored_samples(prepared.calibration))
        session.store.put_samples(HELD_OUT, stored_samples(prepared.heldout))
        comparison = table(compare(prepared, solution.policy, session.engine, stages))
        if prepared.table is not None:
            latency = make_cost("latency", prepared.shape, prepared.table)
            with stages.stage("timing the policy"):
                prefill = timed_prefill(
                    session.model, prepared.calibration, latency, solution.policy
                )
        with stages.stage("drawing figures, writing the report"):
            save_solution(prepared, problem, solution, folder)
            write_atomic(folder.comparison, lambda file: comparison.to_csv(file))
            save_environment(folder, config.device, stages.seconds, command, prefill)
            save_report(folder.path)
    return RunResult(
        config=prepared.config,
        problem=problem,
        solution=solution,
        comparison=comparison,
        folder=folder.path,
        prefill=prefill,
    )
