"""`opsearch compare`: searched policies and baselines at several budgets, on the same items.

Every method spends each budget as well as it can; all are then measured on the run's calibration
samples and answer the judged items. What the run's store holds is not measured again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from opsearch.answers import answer
from opsearch.baselines import baselines
from opsearch.budget import total_cost
from opsearch.builders import identity
from opsearch.config import RunConfig
from opsearch.errors import DataError
from opsearch.measure.engine import Engine
from opsearch.measure.memory import memory_for
from opsearch.measure.store import COMPARED, COMPARED_CALIBRATION, Compared
from opsearch.measure.worker import Source
from opsearch.measure.workers import Workers, started
from opsearch.objectives import Maker
from opsearch.objectives.additive import Additive
from opsearch.objectives.coarse import CoarseJoint
from opsearch.objectives.joint import Joint
from opsearch.objectives.ties import with_ties
from opsearch.policy import Policy
from opsearch.policy_file import policy_text
from opsearch.prepare import Prepared, prepare
from opsearch.problem import (
    Constraint,
    Measure,
    Objective,
    Problem,
    check_budget,
    feasible_points,
)
from opsearch.problem_setup import (
    joint_seconds,
    limits_time,
    make_constraints,
    make_cost,
    make_space,
    parse_budgets,
)
from opsearch.progress import Stages
from opsearch.run_folder import RunFolder
from opsearch.run_store import run_store, stored_samples
from opsearch.runtime.load import fingerprint, load_model
from opsearch.solvers.grid import Grid
from opsearch.spaces import Space

SPACES = ("dop", "depth", "stages")
_OTHER_STAGES = 4


@dataclass(frozen=True)
class Task:
    """A space to search: by which objectives, and within which limits for each budget."""

    space: Space
    makers: tuple[Maker, ...]
    limits: dict[str, tuple[Constraint, ...]]


def compare(
    folder: Path,
    budgets: Sequence[str],
    samples: int = 300,
    effort: float | None = None,
    console: Console | None = None,
    workers: Workers | None = None,
) -> None:
    """Choose, measure and store policies for each budget in the settings of the run in `folder`.

    The judged items are of the embedded tasks' test split, or those of the run's data file that
    were not calibrated on. Where measuring joint for a whole space is estimated to take more than
    `effort` seconds (default: that of the run), it is measured from coarse to fine.
    workers: None: this process measures.
    """
    run = RunFolder(folder)
    stored = RunConfig.load(run.config).model_dump()
    given = {"heldout": samples, "out": folder} | ({} if effort is None else {"effort": effort})
    config = RunConfig.checked(**{**stored, **given})
    total = _OTHER_STAGES + len(SPACES) + limits_time(config.budget)
    stages = Stages(console or Console(stderr=True, markup=False), total)
    prepared = prepare(config, stages, split="test")
    if not prepared.heldout or not all(sample.item.answers for sample in prepared.heldout):
        raise DataError(
            "a comparison needs items with answers that were not calibrated on; add such items to "
            f"{config.data}"
            if config.data
            else "give --samples a number above 0"
        )
    tasks = [_task(name, budgets, prepared, stages) for name in SPACES]
    model_of = (config.model, config.dtype, config.device, config.attention)
    source = Source(*model_of, config.positions)
    with run.locked(), started(workers, source, stages.say) as pool:
        with stages.stage("loading the model"):
            model = load_model(*model_of)
            if pool:
                pool.meet(fingerprint(model))
        with run_store(run.measurements, prepared, model) as store:
            memory = memory_for(model, config.memory)
            engine = Engine(model, store, config.positions, memory, stages.say, pool)
            policies = {("100%", "original"): identity(prepared.shape.layers)}
            for task in tasks:
                policies |= _search(task, prepared, engine, stages)
            for text in budgets:
                policies |= _baselines(text, prepared)
            everything = list(policies.values())
            with stages.stage(f"measuring {len(everything)} policies", "FLOPs") as tick:
                engine.measure(everything, prepared.calibration, tick)
                engine.measure(everything, prepared.heldout, tick)
            with stages.stage(f"answering {len(prepared.heldout)} questions") as tick:
                for done, policy in enumerate(everything, 1):
                    answer(model, prepared.processor, prepared.heldout, policy, store)
                    tick(done, len(everything))
            rows = [Compared(*place, policy_text(policy)) for place, policy in policies.items()]
            splits = {COMPARED_CALIBRATION: prepared.calibration, COMPARED: prepared.heldout}
            listed = {split: stored_samples(samples) for split, samples in splits.items()}
            store.put_comparison(rows, listed)


def _task(name: str, budgets: Sequence[str], prepared: Prepared, stages: Stages) -> Task:
    """A space with its budgets, and with joint as it can be afforded."""
    config = prepared.config.model_copy(update={"space": name})
    pairs = [sample.shape for sample in prepared.calibration]
    space = make_space(config, prepared.shape.layers, prepared.ranker)
    limits = {
        text: make_constraints(parse_budgets([text]), prepared.shape, space, pairs, prepared.table)
        for text in budgets
    }
    for constraints in limits.values():
        check_budget(space, constraints)
    layouts, shape = prepared.layouts, prepared.shape
    seconds = max(joint_seconds(space, c, shape, layouts, config) for c in limits.values())
    makers: tuple[Maker, ...] = (Additive(config.points),) if space.parameters_act_alone else ()
    if seconds <= config.effort:
        return Task(space, (*makers, Joint()), limits)
    stages.say(
        f"{name} joint from coarse to fine: measuring every feasible policy would take about "
        f"{seconds:.0f} s, more than --effort {config.effort:g}"
    )
    return Task(space, (*makers, CoarseJoint()), limits)


def _search(
    task: Task, prepared: Prepared, engine: Engine, stages: Stages
) -> dict[tuple[str, str], Policy]:
    """The best policy of a space for each budget and objective, by (budget, method)."""
    found = {}
    with stages.stage(f"searching {task.space.name}", "FLOPs") as tick:
        floor = engine.noise_floor(prepared.calibration, tick)
        for maker in task.makers:
            objectives = _objectives(
                maker, task, lambda policies: engine.measure(policies, prepared.calibration, tick)
            )
            for text, objective in objectives.items():
                problem = Problem(task.space, with_ties(objective, floor), task.limits[text])
                solution = Grid().solve(problem)
                assert solution.policy is not None  # check_budget() raises otherwise
                found[text, f"{task.space.name} {maker.name}"] = solution.policy
    return found


def _objectives(maker: Maker, task: Task, measure: Measure) -> dict[str, Objective]:
    """One for each budget; from coarse to fine ends elsewhere for each, all else serves all."""
    masks = {text: feasible_points(task.space, limit) for text, limit in task.limits.items()}
    if isinstance(maker, CoarseJoint):
        return {text: maker.make(task.space, measure, mask) for text, mask in masks.items()}
    everything = np.logical_or.reduce(list(masks.values()))
    return dict.fromkeys(masks, maker.make(task.space, measure, everything))


def _baselines(text: str, prepared: Prepared) -> dict[tuple[str, str], Policy]:
    """The baselines that meet a budget, by (budget, method)."""
    (budget,) = parse_budgets([text])
    cost = make_cost(budget.cost, prepared.shape, prepared.table)
    pairs = [sample.shape for sample in prepared.calibration]
    limit = budget.limit(total_cost(cost, identity(prepared.shape.layers), pairs), len(pairs))

    def fits(policy: Policy) -> bool:
        return total_cost(cost, policy, pairs) <= limit

    found = baselines(prepared.shape.layers, prepared.ranker, fits, prepared.usable_rankers)
    return {(text, label): policy for label, policy in found.items()}
