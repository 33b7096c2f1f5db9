"""`opsearch compare`: searched policies and baselines at several budgets, on the same items.

All are measured on the run's calibration samples and answer the judged items. What the run's folder
holds is not measured again, so that a comparison that was stopped goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from opsearch.costs.latency import write_table
from opsearch.data.item import all_answered
from opsearch.errors import DataError
from opsearch.evaluation.answers import answer
from opsearch.evaluation.contenders import (
    SPACES,
    Place,
    Task,
    asked_rankers,
    fitted_baselines,
    say_left_out,
    say_unspent,
    search,
    search_task,
)
from opsearch.evaluation.measured_baselines import fitprune_policies, gsop_policies, shortv_order
from opsearch.evaluation.prefill_times import time_prefills
from opsearch.evaluation.reducers import Reducer, Reduction
from opsearch.evaluation.reducers.compared import (
    answer_reductions,
    fitted_reductions,
    measure_reductions,
    served_reducers,
)
from opsearch.measure.engine import Engine
from opsearch.measure.planning.memory import memory_for
from opsearch.measure.storage.records import COMPARED, COMPARED_CALIBRATION, Compared
from opsearch.measure.storage.store import Store
from opsearch.measure.workers.cluster import Workers, started
from opsearch.measure.workers.worker import Source
from opsearch.models.loading import check_device, fingerprint, load_config, load_model
from opsearch.policy.builders import identity
from opsearch.policy.file import policy_text
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec
from opsearch.progress import Stages
from opsearch.runs.config import RunConfig
from opsearch.runs.prepare import Prepared, prepare
from opsearch.runs.run_folder import RunFolder
from opsearch.runs.session import run_store, stored_samples
from opsearch.runs.setup import limits_time
from opsearch.timing.latency_table import place_of

_OTHER_STAGES = 8


@dataclass(frozen=True)
class Field:
    """All that take part, by (budget, method); reducers: by name, those of the reductions."""

    policies: dict[Place, Policy]
    reducers: dict[str, Reducer]
    reductions: dict[Place, Reduction]


def compare(
    folder: Path,
    budgets: Sequence[str],
    samples: int = 300,
    effort: float | None = None,
    console: Console | None = None,
    workers: Workers | None = None,
    times: bool = False,
    spaces: Sequence[str] = SPACES,
    rankers: Sequence[str] = (),
) -> None:
    """Choose, measure and store policies for each budget in the settings of the run in `folder`.

    The judged items are of the embedded tasks' test split, or those of the run's data file that
    were not calibrated on. Where measuring joint for a whole space is estimated to take more than
    `effort` seconds (default: that of the run), it is measured from coarse to fine.
    workers: None: this process measures; times: take those of prefills too; spaces: to search;
    rankers: further ones that take part.
    """
    run = RunFolder(folder)
    stored = RunConfig.load(run.config).model_dump()
    given = {"heldout": samples, "out": folder} | ({} if effort is None else {"effort": effort})
    config = RunConfig.checked(**{**stored, **given})
    if times:
        check_device(config.device, config.dtype, "compare --times")
    model_config = load_config(config.model)
    further = asked_rankers(rankers, model_config)
    total = _OTHER_STAGES + len(spaces) + limits_time(config.budget) + times
    stages = Stages(console or Console(stderr=True, markup=False), total)
    prepared = prepare(config, stages, split="test")
    if not all_answered([sample.item for sample in prepared.heldout]):
        raise DataError(
            "a comparison needs items with answers that were not calibrated on; add such items to "
            f"{config.data}"
            if config.data
            else "give --samples a number above 0"
        )
    say_left_out(model_config, (prepared.ranker, *further), stages)
    tasks = [search_task(name, budgets, prepared, stages) for name in spaces]
    model_of = (config.model, config.dtype, config.device, config.attention)
    source = Source(*model_of, config.positions)
    with run.locked(), started(workers, source, stages.say) as pool:
        if prepared.table is not None:
            write_table(prepared.table, run.latency)
        with stages.stage("loading the model"):
            model = load_model(*model_of)
            if pool:
                pool.meet(fingerprint(model))
        with run_store(run.measurements, prepared, model) as store:
            memory = memory_for(model, config.memory)
            engine = Engine(model, store, config.positions, memory, stages.say, pool)
            field = _gather(tasks, budgets, further, prepared, engine, stages)
            _judge(field, prepared, engine, stages)
            if times:
                _time(field, prepared, model, run.prefill, stages)
            _store(field, prepared, store)


def _gather(
    tasks: Sequence[Task],
    budgets: Sequence[str],
    further: Sequence[RankerSpec],
    prepared: Prepared,
    engine: Engine,
    stages: Stages,
) -> Field:
    """The original, the best policies of each space, and the baselines at each budget."""
    policies = {("100%", "original"): identity(prepared.shape.layers)}
    for task in tasks:
        policies |= search(task, prepared, engine, stages)
    frozen_first = shortv_order(prepared, engine, stages)
    pruned = gsop_policies(budgets, prepared, engine, stages)
    recipes = fitprune_policies(budgets, prepared, engine, stages)
    reducers = served_reducers(engine.model.config, prepared, stages)
    rivals: dict[Place, Policy] = {}
    reductions: dict[Place, Reduction] = {}
    for text in budgets:
        rivals |= fitted_baselines(text, prepared, frozen_first, further, stages)
        rivals[text, "GSOP"] = pruned[text]
        if text in recipes:
            rivals[text, "FitPrune"] = recipes[text]
        reductions |= fitted_reductions(text, prepared, reducers, stages)
    say_unspent({**rivals, **reductions}, prepared, stages)
    return Field(policies | rivals, reducers, reductions)


def _judge(field: Field, prepared: Prepared, engine: Engine, stages: Stages) -> None:
    """Measure and answer what the store does not hold."""
    policies, made = list(field.policies.values()), list(field.reductions.values())
    with stages.stage(f"measuring {len(policies)} policies", "FLOPs") as tick:
        engine.measure(policies, prepared.calibration, tick)
        engine.measure(policies, prepared.heldout, tick)
    with stages.stage(f"measuring {len(made)} reductions") as tick:
        both = [*prepared.calibration, *prepared.heldout]
        measure_reductions(engine, field.reducers, made, both, tick)
    processor, judged = prepared.processor, prepared.heldout
    with stages.stage(f"answering {len(judged)} questions") as tick:
        answer_reductions(engine, processor, field.reducers, made, judged)
        for done, policy in enumerate(policies, 1):
            answer(engine.model, processor, judged, policy, engine.store)
            tick(done, len(policies))


def _time(field: Field, prepared: Prepared, model: Any, file: Path, stages: Stages) -> None:
    """Time the prefills of all that take part, and write them to a file."""
    config = prepared.config
    policies = list(field.policies.values())
    reductions = [(field.reducers[each.reducer], each) for each in field.reductions.values()]
    machine = place_of(model.config, config.dtype, config.device, config.attention)
    with stages.stage(f"timing {len(policies) + len(reductions)} methods") as tick:
        time_prefills(model, policies, reductions, prepared.calibration, machine, file, tick)


def _store(field: Field, prepared: Prepared, store: Store) -> None:
    """List who takes part, and the samples they were compared on."""
    rows = [Compared(*place, policy_text(each)) for place, each in field.policies.items()]
    rows += [Compared(*place, each.text) for place, each in field.reductions.items()]
    splits = {COMPARED_CALIBRATION: prepared.calibration, COMPARED: prepared.heldout}
    store.put_comparison(rows, {split: stored_samples(each) for split, each in splits.items()})
