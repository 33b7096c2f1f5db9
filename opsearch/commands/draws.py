"""`opsearch compare --draws`: repeat all choices of a comparison on several draws.

Each draw of the calibration samples has a run folder of its own in RUN/draws, in which its
measurements and answers are stored, so that an interrupted comparison resumes. All draws are judged
on the same test samples.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from opsearch.analysis.draws import OURS
from opsearch.commands.compare import STAGES, compare_methods, require_answers
from opsearch.commands.run import answered
from opsearch.console import PlainConsole
from opsearch.data.item import Item
from opsearch.errors import OpsearchError
from opsearch.evaluation import SPACES
from opsearch.evaluation.contenders import (
    parse_rankers,
    print_unsupported_baselines,
    search_task,
    with_readings,
)
from opsearch.evaluation.stored_draws import begin_draws, draw_folder, finish_draws
from opsearch.measure.workers.cluster import Workers
from opsearch.policy.baseline import with_evaluations
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec
from opsearch.problem.budget import Budget
from opsearch.problem.solution import reraise_interrupt
from opsearch.progress import Progress
from opsearch.runs.config import IN_MEMORY, SHARES, RunConfig
from opsearch.runs.draws import draw_items
from opsearch.runs.prepare import Prepared, at_budget, settle, state
from opsearch.runs.run_folder import RunFolder
from opsearch.runs.session import Session, open_session, stored_samples
from opsearch.runs.setup import parse_budgets

_FEWEST = 2


@dataclass(frozen=True)
class _Methods:
    """What is compared on each draw, besides the baselines.

    Attributes:
        budgets: Budgets of the comparison.
        spaces: Spaces to search.
        further: Additional rankers to compare.
    """

    budgets: tuple[Budget, ...]
    spaces: tuple[str, ...]
    further: tuple[RankerSpec, ...]


def compare_draws(
    folder: Path,
    budgets: Sequence[str],
    draws: int,
    *,
    samples: int = 300,
    effort: float | None = None,
    console: Console | None = None,
    workers: Workers | None = None,
    spaces: Sequence[str] = SPACES,
    rankers: Sequence[str] = (),
) -> None:
    """Repeat a comparison, with the run's own search, on several draws of calibration samples.

    Args:
        folder: The run folder; the draws are compared in its subfolder `draws`.
        budgets: Budgets of the comparison.
        draws: Number of draws; draw i has the run's seed + i.
        samples: Maximum number of test samples.
        effort: As for `opsearch.commands.compare.compare`, like the following.
        console: Console for progress; None: standard error.
        workers: Processes that measure; None: this one.
        spaces: Spaces to search, besides that of the run.
        rankers: Additional rankers to compare.

    Raises:
        DataError: The data hold too few samples, or a test sample has no answer.
        OpsearchError: There are fewer than two draws, or the run, its model or its data cannot be
            used.
    """
    if draws < _FEWEST:
        raise OpsearchError(
            f"--draws {draws} has no spread over draws; give at least {_FEWEST}, or leave it out "
            "to compare on the samples of the run"
        )
    if samples < 1:
        raise OpsearchError(f"--samples {samples} selects no test samples; give a number above 0")
    run = RunFolder(folder)
    given = {"out": folder} | ({} if effort is None else {"effort": effort})
    settled = settle(RunConfig.load(run.config).changed(**given))
    settled.settings.require_full_size()
    methods = _Methods(
        tuple(parse_budgets([text])[0] for text in budgets),
        tuple(with_readings(spaces)),
        parse_rankers(rankers, settled.model_config),
    )
    console = console or PlainConsole(stderr=True)
    progress = Progress(console, 0)
    with progress.unnumbered(f"reading {settled.config.data or 'the embedded tasks'}") as tick:
        drawn = draw_items(settled.config, draws, samples, tick)
    require_answers(drawn.test, settled.config.data)
    for note in drawn.notes:
        progress.say(note)
    model = None
    with RunFolder(run.draws).locked():
        begin_draws(run)
        for draw, calibration in enumerate(drawn.calibration):
            config = _config_of(settled.config, run, draw)
            progress.say(f"draw {draw + 1}/{draws}: seed {config.seed}, {config.out}")
            items = calibration, drawn.test
            model = _compare_draw(config, items, methods, console, workers, model)
        finish_draws(run, draws)


def _config_of(config: RunConfig, run: RunFolder, draw: int) -> RunConfig:
    """Return the settings of a draw.

    A file does not give a draw's samples again to `opsearch run`, which takes the first ones.
    """
    data = None if config.data is None else Path(IN_MEMORY)
    out = draw_folder(run, draw).path
    return config.changed(seed=config.seed + draw, data=data, out=out)


def _compare_draw(
    config: RunConfig,
    items: tuple[Sequence[Item], Sequence[Item]],
    methods: _Methods,
    console: Console,
    workers: Workers | None,
    model: Any,
) -> Any:
    """Compare all methods on a draw in its folder, and return the model, loaded if it was None.

    Args:
        config: The settings of the draw.
        items: Its calibration items, and the test items.
        methods: What is compared.
        console: Console for progress.
        workers: Processes that measure.
        model: The loaded model.
    """
    folder, settled = RunFolder(config.out), settle(config)
    _take_latency_table(folder)
    by_gradient = settled.settings.space.name == SHARES
    searches = (1 + by_gradient) * len(methods.budgets)  # its stages
    total = STAGES + len(methods.spaces) + searches + settled.settings.timed
    progress = Progress(console, total - (model is not None))
    prepared = state(settled, settled.settings.model.load_processor(), items, progress)
    print_unsupported_baselines(settled.model_config, (prepared.ranker, *methods.further), progress)
    tasks = [search_task(name, methods.budgets, prepared, progress) for name in methods.spaces]
    own = {budget.text: at_budget(prepared, budget) for budget in methods.budgets}
    with open_session(prepared, folder, progress, workers, model) as session:
        prepared.config.save(folder.config)
        _take_stored(prepared, session)
        found = {(text, OURS): _own_answer(each, session) for text, each in own.items()}
        compare_methods(tasks, methods.budgets, methods.further, prepared, session, given=found)
        session.store.put_calibration(stored_samples(prepared.calibration), prepared.seen)
        return session.model


def _own_answer(prepared: Prepared, session: Session) -> Policy:
    """Return the policy that `opsearch run` would choose with these samples and this budget."""
    _, solution, evaluations = answered(prepared, session)
    policy = reraise_interrupt(solution).policy
    assert policy is not None  # the search raises otherwise
    return with_evaluations(policy, evaluations)


def _take_stored(prepared: Prepared, session: Session) -> None:
    """Take what the run, or the draw before, measured and answered on the same samples."""
    path = session.folder.path
    before = path.parent.parent if path.name == "0" else path.parent / str(int(path.name) - 1)
    samples = [*prepared.calibration, *prepared.heldout]
    session.store.take(RunFolder(before).measurements, [sample.digest for sample in samples])


def _take_latency_table(folder: RunFolder) -> None:
    """Copy the latency table of the run, if it has one, so that all draws have the same."""
    of_run = RunFolder(folder.path.parent.parent).latency
    if of_run.exists():
        folder.path.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(of_run, folder.latency)
