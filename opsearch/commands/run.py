"""`opsearch run` and `opsearch.search`: search a policy, compare it with baselines, save it.

Measurements are stored in the run folder before they are used, so an interrupted run resumes when
it is started again with the same settings.
"""

from __future__ import annotations

from collections.abc import Sequence
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
from opsearch.runs.image_search import Answer, best_of, share_of, stages_of, states, table_of
from opsearch.runs.placing import folder_for_policy, folder_for_run
from opsearch.runs.portfolio import portfolio
from opsearch.runs.prepare import Prepared, loaded, settle
from opsearch.runs.relaxed import plan_descent
from opsearch.runs.results import save_images, save_solution
from opsearch.runs.run_folder import RunFolder
from opsearch.runs.search import search
from opsearch.runs.session import Session, open_session, stored_samples
from opsearch.runs.setup import FULL_SIZE, SearchSettings, make_cost
from opsearch.solvers.gradient import GradientDescent
from opsearch.timing.policy_latency import timed_prefill

_STAGES = 4  # encoding, measuring the comparison, answering, the report
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
    prepared = states(settled, *loaded(settled, progress), progress, if_answered=1)
    return search_and_save(prepared, progress, command=command, workers=workers, replace=replace)


def search_progress(console: Console | None, settings: SearchSettings, loading: int) -> Progress:
    """Return the progress of a search.

    `loading` is 1 if the run loads the model, 0 if it was given.
    """
    smaller = sum(share < 1 for share in settings.images)  # which are encoded once more
    searches = len(settings.images) * stages_of(settings)
    total = _STAGES + loading + smaller + searches
    return Progress(console, total + _STAGES_OF_TIME * settings.timed)


def search_and_save(
    searches: Sequence[Prepared],
    progress: Progress,
    model: Any = None,
    command: str | None = None,
    workers: Workers | None = None,
    *,
    replace: bool = False,
) -> SearchResult:
    """Search, compare, and write everything to the run folder of the settings.

    Args:
        searches: The search at each image setting.
        progress: Progress of the stages.
        model: The loaded model; None: it is loaded with the settings.
        command: The command line as typed, for the report.
        workers: Processes that measure; None: this one.
        replace: Write over the answer that the folder holds, instead of beside it.

    Raises:
        OpsearchError: The folder is in use or holds files of another origin, or the search ends
            without a policy.
    """
    for each in searches:
        if isinstance(each.choice.solver, GradientDescent):  # too short an effort fails now
            plan_descent(each.effort_estimate, each.settings.effort)
        if each.choice.reason:
            progress.say(each.choice.reason)
    first, prefill = searches[0], None
    config, folder = first.config, folder_for_run(first, replace=replace)
    with open_session(first, folder, progress, workers, model) as session:
        _save_settings(config, folder, progress)
        answers = _answers(searches, session)
        best = best_of(answers, session.engine.noise_floor(first.calibration))
        prepared, problem, solution = best.prepared, best.problem, best.solution
        free = folder_for_policy(folder, prepared, best.policy, replace=replace)
        if free.path != folder.path:
            folder = free
            _save_settings(config, folder, progress)
            session.store.result = folder.name
        session.store.put_calibration(stored_samples(prepared.calibration), prepared.seen)
        session.store.put_samples(HELD_OUT, stored_samples(prepared.heldout))
        comparison = table(compare(prepared, best.policy, session.engine, progress, best.measured))
        images = table_of(answers) if prepared.settings.images != FULL_SIZE else None
        if prepared.table is not None:
            timed = next(each for each in prepared.settings.budgets if each.cost_class.timed)
            latency = make_cost(timed.cost, prepared.shape, prepared.table)
            with progress.stage("timing the policy"):
                prefill = timed_prefill(session.model, prepared.calibration, latency, best.policy)
        with progress.stage("drawing figures and writing the report"):
            policy = save_solution(prepared, problem, solution, folder, best.measured)
            write_atomic(folder.comparison, lambda file: comparison.to_csv(file))
            save_images(images, folder)
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
        images=images,
    )


def _save_settings(config: RunConfig, folder: RunFolder, progress: Progress) -> None:
    """Write run.yaml, and say where the answer goes if not to the folder of the settings."""
    if folder.path != config.out:
        progress.say(
            f"{config.out} holds another answer, which stays; this one goes to {folder.path} "
            "(--replace writes over the other one)"
        )
    config.save(folder.config)


def _answers(searches: Sequence[Prepared], session: Session) -> list[Answer]:
    """Search at each image setting with the model of a session."""
    every = [sample for each in searches for sample in each.calibration]
    session.store.put_samples(BEGUN, stored_samples(every))
    found = []
    for each in searches:
        if len(searches) > 1:
            session.progress.say(f"images at {share_of(each)} of the visual tokens:")
        found.append(_searched(each, session))
    return found


def _searched(prepared: Prepared, session: Session) -> Answer:
    """Search with the model of a session, then measure each parameter alone for the figures."""
    settings, progress = prepared.settings, session.progress
    problem, solution, measured = answered(prepared, session)
    by_gradient = isinstance(prepared.choice.solver, GradientDescent)
    if settings.space.parameters_act_alone and not by_gradient:
        with progress.stage("measuring each parameter alone", "FLOPs") as tick:
            single = Additive.from_settings(settings.proxy).policies(settings.space)
            session.engine.measure(single, prepared.calibration, tick)
    assert solution.policy is not None  # answered() raises otherwise
    kl = float(session.engine.measure([solution.policy], prepared.calibration).mean())
    return Answer(prepared, problem, solution, measured, kl)


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
