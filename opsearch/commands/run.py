"""`opsearch run` and `opsearch.search`: search a policy, compare it with baselines, save it.

Measurements are stored in the run folder before they are used, so an interrupted run resumes when
it is started again with the same settings.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console

from opsearch.commands.search_result import SearchResult
from opsearch.console import PlainConsole
from opsearch.evaluation.run_table import compare, table
from opsearch.files import write_atomic
from opsearch.measure.counted import CountedMeasure
from opsearch.measure.engine import SampleMeasure
from opsearch.measure.storage.records import BEGUN, HELD_OUT
from opsearch.measure.workers.cluster import Workers
from opsearch.objectives.additive import Additive
from opsearch.problem.objective_factory import progress_unit
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Solution
from opsearch.progress import Progress
from opsearch.report.page import save_report
from opsearch.runs.config import RunConfig
from opsearch.runs.environment import save_environment
from opsearch.runs.placing import folder_for_policy, folder_for_run
from opsearch.runs.portfolio import portfolio
from opsearch.runs.prepare import Prepared, prepare, settle
from opsearch.runs.relaxed import plan_descent
from opsearch.runs.results import save_solution
from opsearch.runs.run_folder import RunFolder
from opsearch.runs.search import search
from opsearch.runs.session import Session, open_session, stored_samples
from opsearch.runs.setup import SearchSettings, make_cost
from opsearch.solvers.gradient import GradientDescent
from opsearch.timing.policy_latency import timed_prefill

_STAGES = 5  # encoding, measuring the objective and the comparison, answering, the report
_STAGES_OF_TIME = 2


def run(
    config: RunConfig,
    console: Console | None = None,
    command: str | None = None,
    workers: Workers | None = None,
    *,
    replace: bool = False,
) -> SearchResult:
    """Search a policy and compare it with baselines at equal cost.

    Args:
        config: The settings.
        console: Console for progress; None: standard error.
        command: The command line as typed, for the report.
        workers: Processes that measure; None: this one.
        replace: Write over the answer that the folder of the settings holds.

    Raises:
        OpsearchError: The run cannot be completed; the message states the reason and the next step.
    """
    settled = settle(config)
    progress = search_progress(console or PlainConsole(stderr=True), settled.settings, 1)
    prepared = prepare(settled, progress, if_answered=1)
    return search_and_save(prepared, progress, command=command, workers=workers, replace=replace)


def search_progress(console: Console | None, settings: SearchSettings, loading: int) -> Progress:
    """Return the progress of a search.

    `loading` is 1 if the run loads the model, 0 if it was given.
    """
    total = _STAGES + loading + settings.space.parameters_act_alone
    return Progress(console, total + _STAGES_OF_TIME * settings.timed)


def search_and_save(
    prepared: Prepared,
    progress: Progress,
    model: Any = None,
    command: str | None = None,
    workers: Workers | None = None,
    *,
    replace: bool = False,
) -> SearchResult:
    """Search, compare, and write everything to the run folder of the settings.

    Args:
        prepared: The search.
        progress: Progress of the stages.
        model: The loaded model; None: it is loaded with the settings.
        command: The command line as typed, for the report.
        workers: Processes that measure; None: this one.
        replace: Write over the answer that the folder holds, instead of beside it.

    Raises:
        OpsearchError: The folder is in use or holds files of another origin, or the search ends
            without a policy.
    """
    if isinstance(prepared.choice.solver, GradientDescent):  # too short an effort fails now
        plan_descent(prepared.effort_estimate, prepared.settings.effort)
    if prepared.choice.reason:
        progress.say(prepared.choice.reason)
    config, prefill = prepared.config, None
    folder = folder_for_run(prepared, replace=replace)
    with open_session(prepared, folder, progress, workers, model) as session:
        _save_settings(config, folder, progress)
        session.store.put_samples(BEGUN, stored_samples(prepared.calibration))
        problem, solution, evaluations = _searched(prepared, session)
        assert solution.policy is not None  # _searched() raises otherwise
        free = folder_for_policy(folder, prepared, solution.policy, replace=replace)
        if free.path != folder.path:
            folder = free
            _save_settings(config, folder, progress)
            session.store.result = folder.name
        session.store.put_calibration(stored_samples(prepared.calibration), prepared.seen)
        session.store.put_samples(HELD_OUT, stored_samples(prepared.heldout))
        comparison = table(
            compare(prepared, solution.policy, session.engine, progress, evaluations)
        )
        if prepared.table is not None:
            timed = next(each for each in prepared.settings.budgets if each.cost_class.timed)
            latency = make_cost(timed.cost, prepared.shape, prepared.table)
            with progress.stage("timing the policy"):
                prefill = timed_prefill(
                    session.model, prepared.calibration, latency, solution.policy
                )
        with progress.stage("drawing figures and writing the report"):
            policy = save_solution(prepared, problem, solution, folder, evaluations)
            write_atomic(folder.comparison, lambda file: comparison.to_csv(file))
            device = prepared.settings.model.device
            save_environment(folder, device, progress.seconds, command, prefill)
            save_report(folder.path)
    return SearchResult(
        policy=policy,
        config=config,
        problem=problem,
        solution=solution,
        comparison=comparison,
        folder=folder.path,
        prefill=prefill,
    )


def _save_settings(config: RunConfig, folder: RunFolder, progress: Progress) -> None:
    """Write run.yaml, and say where the answer goes if not to the folder of the settings."""
    if folder.path != config.out:
        progress.say(
            f"{config.out} holds another answer, which stays; this one goes to {folder.path} "
            "(--replace writes over the other one)"
        )
    config.save(folder.config)


def _searched(prepared: Prepared, session: Session) -> tuple[Problem, Solution, int]:
    """Search with the model of a session, then measure each parameter alone for the figures.

    The third part is the number of policies that the search measured.
    """
    settings = prepared.settings
    found = answered(prepared, session)
    by_gradient = isinstance(prepared.choice.solver, GradientDescent)
    if settings.space.parameters_act_alone and not by_gradient:
        with session.progress.stage("measuring each parameter alone", "FLOPs") as tick:
            single = Additive.from_settings(settings.proxy).policies(settings.space)
            session.engine.measure(single, prepared.calibration, tick)
    return found


def answered(prepared: Prepared, session: Session) -> tuple[Problem, Solution, int]:
    """Search with the model of a session, as the settings of the run say.

    The comparison over draws calls this too, once for each budget and draw.

    Returns:
        The problem, its solution, and the number of policies that the search measured.

    Raises:
        OpsearchError: The search ends without a policy.
    """
    settings, engine, progress = prepared.settings, session.engine, session.progress
    if isinstance(prepared.choice.solver, GradientDescent):
        problem, solution = portfolio(prepared, engine, progress)
        return problem, solution, solution.evaluations
    objective = prepared.choice.objective
    unit = progress_unit(objective)
    with progress.stage(f"measuring {objective.name}, solving", unit) as tick:
        # The noise is measured in FLOPs, which must not mix with another unit.
        floor = engine.noise_floor(prepared.calibration, tick if unit == "FLOPs" else None)
        measure = CountedMeasure(SampleMeasure(engine, prepared.calibration, tick))
        problem, solution = search(prepared.choice, settings, prepared.constraints, measure, floor)
    return problem, solution, measure.evaluations
