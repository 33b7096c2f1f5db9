"""`opsearch compare`: searched policies and baselines at several budgets, on the same samples.

All methods are measured on the run's calibration samples and answer the test samples. Stored
measurements are reused, so an interrupted comparison resumes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from opsearch.console import PlainConsole
from opsearch.costs.flops import Flops
from opsearch.data.item import Item, all_answered
from opsearch.errors import DataError
from opsearch.evaluation import SPACES
from opsearch.evaluation.answers import answer, describe_cut_answers
from opsearch.evaluation.baselines import shortv_in_order, skip_in_order
from opsearch.evaluation.contenders import (
    MethodKey,
    Task,
    baseline_candidates,
    parse_rankers,
    print_unsupported_baselines,
    say_unused_budget,
    search,
    search_task,
    with_readings,
)
from opsearch.evaluation.measured_baselines import (
    fitprune_policies,
    gsearch_policies,
    gsop_policies,
    shortv_order,
    skipping_order,
)
from opsearch.evaluation.prefill_times import time_prefills
from opsearch.evaluation.reducers import Reducer, Reduction
from opsearch.evaluation.reducers.compared import (
    answer_reductions,
    fitted_reductions,
    measure_reductions,
    served_reducers,
)
from opsearch.evaluation.tuned import choose_settings
from opsearch.measure.storage.records import COMPARED, COMPARED_CALIBRATION, Compared
from opsearch.measure.storage.store import Store
from opsearch.measure.workers.cluster import Workers
from opsearch.policy.baseline import with_evaluations
from opsearch.policy.builders import identity
from opsearch.policy.file import policy_text
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec
from opsearch.problem.budget import Budget, total_cost
from opsearch.progress import Progress
from opsearch.runs.config import RunConfig
from opsearch.runs.prepare import Prepared, prepare, settle
from opsearch.runs.run_folder import RunFolder
from opsearch.runs.session import Session, open_session, stored_samples
from opsearch.runs.setup import parse_budgets
from opsearch.timing.latency_table import machine_of

# Encoding, loading the model, five measured baselines, choosing settings, measuring policies,
# measuring token reductions, and answering.
STAGES = 11


@dataclass(frozen=True)
class ComparedMethods:
    """The compared methods.

    Attributes:
        policies: Policies by (budget, method).
        reducers: Reducers by name.
        reductions: Reductions by (budget, method).
    """

    policies: dict[MethodKey, Policy]
    reducers: dict[str, Reducer]
    reductions: dict[MethodKey, Reduction]


def compare(
    folder: Path,
    budgets: Sequence[str],
    *,
    samples: int = 300,
    effort: float | None = None,
    console: Console | None = None,
    workers: Workers | None = None,
    times: bool = False,
    spaces: Sequence[str] = SPACES,
    rankers: Sequence[str] = (),
) -> None:
    """Search, measure and store policies for each budget, with the settings of a run.

    The test samples come from the test split of the embedded tasks, or from the run's data without
    all that shares a picture or a group with its calibration samples. They may have been held out.

    Args:
        folder: The run folder.
        budgets: Budgets of the comparison.
        samples: Maximum number of test samples.
        effort: Seconds; if the joint objective of a whole space is estimated to take longer, it is
            measured from coarse to fine. None: as in the run.
        console: Console for progress; None: standard error.
        workers: Processes that measure; None: this one.
        times: Also measure prefill times.
        spaces: Spaces to search; `dop` in both readings of its paper.
        rankers: Additional rankers to compare.

    Raises:
        DataError: A test sample has no answer, or there are none.
        OpsearchError: The run, its model or its data cannot be used.
    """
    if samples < 1:
        raise DataError(f"--samples {samples} selects no test samples; give a number above 0")
    run = RunFolder(folder)
    given = {"out": folder} | ({} if effort is None else {"effort": effort})
    settled = settle(RunConfig.load(run.config).changed(**given))
    if times:
        settled.settings.model.check("compare --times")
    limits = [parse_budgets([text])[0] for text in budgets]
    further, searched = parse_rankers(rankers, settled.model_config), with_readings(spaces)
    total = STAGES + len(searched) + settled.settings.timed + times
    progress = Progress(console or PlainConsole(stderr=True), total)
    prepared = prepare(settled, progress, test=samples)
    require_answers([sample.item for sample in prepared.heldout], settled.config.data)
    print_unsupported_baselines(settled.model_config, (prepared.ranker, *further), progress)
    tasks = [search_task(name, limits, prepared, progress) for name in searched]
    with open_session(prepared, run, progress, workers, continued=True) as session:
        compare_methods(tasks, limits, further, prepared, session, times=times)


def require_answers(items: Sequence[Item], data: Path | None) -> None:
    """Raise DataError if there are no test items in the data, or one has no answer."""
    if not all_answered(items):
        raise DataError(
            "a comparison needs samples with answers besides the calibration samples and those "
            f"that share an image or a group with them; add some to {data}"
        )


def compare_methods(
    tasks: Sequence[Task],
    budgets: Sequence[Budget],
    further: Sequence[RankerSpec],
    prepared: Prepared,
    session: Session,
    *,
    times: bool = False,
    given: Mapping[MethodKey, Policy] | None = None,
) -> None:
    """Gather, measure, answer with and store all methods.

    Args:
        tasks: The spaces to search.
        budgets: Budgets of the comparison.
        further: Additional rankers to compare.
        prepared: The search, with the test samples in place of held-out ones.
        session: Its opened resources.
        times: Also measure prefill times.
        given: Further policies to compare; None: none.
    """
    methods = _gather(tasks, budgets, further, prepared, session)
    methods = replace(methods, policies=methods.policies | dict(given or {}))
    _judge(methods, prepared, session)
    if times:
        _time(methods, prepared, session)
    _store(methods, prepared, session.store)


def _gather(
    tasks: Sequence[Task],
    budgets: Sequence[Budget],
    further: Sequence[RankerSpec],
    prepared: Prepared,
    session: Session,
) -> ComparedMethods:
    """Return the original, the best policies of each space, and the baselines at each budget."""
    engine, progress = session.engine, session.progress
    policies = {("100%", "original"): identity(prepared.shape.layers)}
    for task in tasks:
        policies |= search(task, prepared, engine, progress)
    frozen = shortv_order(prepared, engine, progress)
    skipped = skipping_order(prepared, engine, progress)
    pruned = gsop_policies(budgets, prepared, engine, progress)
    dropped = gsearch_policies(budgets, prepared, engine, progress)
    recipes = fitprune_policies(budgets, prepared, engine, progress)
    reducers = served_reducers(engine.model.config, prepared, progress)
    measured = {"ShortV": shortv_in_order(frozen), "operator skipping": skip_in_order(skipped)}
    spent = {"ShortV": len(frozen), "operator skipping": len(skipped)}
    candidates: dict[MethodKey, list[Policy]] = {}
    reductions: dict[MethodKey, Reduction] = {}
    for budget in budgets:
        for key, found in baseline_candidates(
            budget, prepared, measured, further, progress
        ).items():
            before = spent.get(key[1], 0)
            candidates[key] = [with_evaluations(policy, before) for policy in found]
        candidates[budget.text, "GSOP"] = [pruned[budget.text]]
        for label, answers in (("G-Search like", dropped), ("FitPrune", recipes)):
            if budget.text in answers:
                candidates[budget.text, label] = [answers[budget.text]]
        reductions |= fitted_reductions(budget, prepared, reducers, progress)
    rivals = _chosen(candidates, prepared, session)
    say_unused_budget({**rivals, **reductions}, budgets, prepared, progress)
    return ComparedMethods(policies | rivals, reducers, reductions)


def _chosen(
    candidates: Mapping[MethodKey, Sequence[Policy]], prepared: Prepared, session: Session
) -> dict[MethodKey, Policy]:
    """Choose the settings of all baselines on the calibration samples."""
    samples, flops = prepared.calibration, Flops(prepared.shape)
    sizes = [sample.size for sample in samples]

    def cost(policy: Policy) -> int:
        return total_cost(flops, policy, sizes)

    with session.progress.stage("choosing the baselines' settings", "FLOPs") as tick:
        return choose_settings(candidates, session.engine, samples, cost, tick)


def _judge(methods: ComparedMethods, prepared: Prepared, session: Session) -> None:
    """Measure and answer with every method, except for stored results."""
    engine, progress = session.engine, session.progress
    policies, reductions = list(methods.policies.values()), list(methods.reductions.values())
    with progress.stage(f"measuring {len(policies)} policies", "FLOPs") as tick:
        engine.measure(policies, prepared.calibration, tick)
        engine.measure(policies, prepared.heldout, tick)
    with progress.stage(f"measuring {len(reductions)} token reductions") as tick:
        both = [*prepared.calibration, *prepared.heldout]
        measure_reductions(engine, methods.reducers, reductions, both, tick)
    processor, questions = prepared.processor, prepared.heldout
    longest = prepared.settings.answer_tokens
    with progress.stage(f"answering {len(questions)} test questions") as tick:
        reduced = answer_reductions(
            engine, processor, methods.reducers, reductions, questions, longest
        )
        found = []
        for policy in policies:
            found.append(
                answer(
                    engine.model, processor, questions, policy, engine.store, answer_tokens=longest
                )
            )
            tick(len(found), len(policies))
    names = [f"{name} at {budget}" for budget, name in (*methods.policies, *methods.reductions)]
    names[0] = "the original"
    again = f"`opsearch run --config {session.folder.config}` with --answer-tokens"
    if cut := describe_cut_answers(dict(zip(names, [*found, *reduced], strict=True)), again):
        progress.say(cut)


def _time(methods: ComparedMethods, prepared: Prepared, session: Session) -> None:
    """Measure the prefill time of every method and write it to the run folder."""
    spec, model = prepared.settings.model, session.model
    policies = list(methods.policies.values())
    reductions = [(methods.reducers[each.reducer], each) for each in methods.reductions.values()]
    machine = machine_of(model.config, spec)
    with session.progress.stage(f"timing {len(policies) + len(reductions)} methods") as tick:
        time_prefills(
            model,
            policies,
            reductions,
            prepared.calibration,
            machine=machine,
            path=session.folder.prefill,
            progress=tick,
        )


def _store(methods: ComparedMethods, prepared: Prepared, store: Store) -> None:
    """Store the compared methods and the samples they were compared on."""
    rows = [Compared(*key, policy_text(each)) for key, each in methods.policies.items()]
    rows += [Compared(*key, each.text) for key, each in methods.reductions.items()]
    splits = {COMPARED_CALIBRATION: prepared.calibration, COMPARED: prepared.heldout}
    store.put_comparison(rows, {split: stored_samples(each) for split, each in splits.items()})
