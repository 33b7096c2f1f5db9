"""The one entry: a RunConfig becomes measurements, a solution, a policy file and a table.

Everything measured is in the run folder's store before it is used, so an interrupted run goes on
where it stopped when it is started again with the same settings.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from opsearch import builders
from opsearch.analysis.heatmap import save_heatmap
from opsearch.analysis.pareto import front_table, save_front_figure
from opsearch.answers import answer
from opsearch.budget import total_cost
from opsearch.comparison import Row, baselines, table
from opsearch.config import RunConfig
from opsearch.costs import COSTS
from opsearch.files import write_atomic
from opsearch.measure.engine import ENGINE_VERSION, Engine
from opsearch.measure.samples import Sample, processor_digest
from opsearch.measure.store import Store, StoredSample
from opsearch.policy import Policy
from opsearch.prepare import Prepared, prepare
from opsearch.problem import Problem, Solution
from opsearch.progress import Stages
from opsearch.registry import lookup
from opsearch.run_folder import RunFolder
from opsearch.runtime.load import fingerprint, load_model
from opsearch.search import choose, joint_forwards, search

_STAGES = 5


@dataclass(frozen=True)
class RunResult:
    """What a run leaves: settings as completed, problem, solution, table, folder."""

    config: RunConfig
    problem: Problem
    solution: Solution
    comparison: pd.DataFrame
    folder: Path


def run(config: RunConfig, console: Console | None = None) -> RunResult:
    """Search a policy and compare it; raises OpsearchError with one sentence for anything wrong."""
    stages = Stages(console or Console(stderr=True), _STAGES)
    choose(config, joint_seconds=0.0)  # names and forms are checked before anything is loaded
    with RunFolder(config.out).locked() as folder:
        prepared = prepare(config, stages)
        with stages.stage("loading the model"):
            model = load_model(config.model, config.dtype, config.device, config.attention)
        with Store(folder.measurements, _facts(config, prepared, model)) as store:
            store.put_samples("calibration", [_stored(s) for s in prepared.calibration])
            store.put_samples("held-out", [_stored(s) for s in prepared.heldout])
            engine = Engine(model, store, config.positions)
            choice = choose(config, _joint_seconds(prepared, engine))
            if choice.reason:
                stages.say(choice.reason)
            completed = {"objective": choice.maker.name, "solver": choice.solver.name}
            config = config.model_copy(update=completed)
            with stages.stage(f"measuring {choice.maker.name}, solving") as tick:
                problem, solution = search(
                    choice,
                    prepared.space,
                    prepared.constraints,
                    lambda policies: engine.measure(policies, prepared.calibration, tick),
                    config,
                )
            rows = _compare(prepared, solution, engine, stages)
        return _save(config, prepared, problem, solution, rows, folder)


def save_solution(
    config: RunConfig, problem: Problem, solution: Solution, model_type: str, folder: RunFolder
) -> None:
    """Write the policy, the record of the solve, the front and their figures."""
    assert solution.policy is not None
    provenance = {
        "model": config.model,
        "budget": list(config.budget),
        "status": str(solution.status),
        "solver": solution.solver,
        "objective": solution.objective,
        "value": solution.value,
        "unit": solution.unit,
        "samples": config.samples,
        "seed": config.seed,
    }
    policy = dataclasses.replace(solution.policy, model_type=model_type, provenance=provenance)
    policy.save_pretrained(folder.path)
    save_heatmap(policy, folder.policy_figure)
    folder.save_solution(solution, {"model": config.model, "space": config.space})
    values = getattr(problem.objective, "values", None)
    if values is not None:
        constraint = problem.constraints[0]
        front = front_table(problem.space, constraint, values)
        write_atomic(folder.front, lambda file: front.to_csv(file, index=False))
        save_front_figure(
            front, constraint, problem.objective.name, problem.objective.unit, folder.front_figure
        )


def _compare(prepared: Prepared, solution: Solution, engine: Engine, stages: Stages) -> list[Row]:
    """Measure the original, the chosen policy and the baselines on calibration and held-out."""
    assert solution.policy is not None
    layers, pairs = prepared.shape.layers, [s.shape for s in prepared.calibration]
    costs = {c.name: lookup("costs", c.name, COSTS)(prepared.shape) for c in prepared.constraints}
    flops = lookup("costs", "flops", COSTS)(prepared.shape)

    def fits(policy: Policy) -> bool:
        limits = prepared.constraints
        return all(total_cost(costs[c.name], policy, pairs) <= c.limit for c in limits)

    policies = {"original": builders.identity(layers), "opsearch": solution.policy}
    policies |= baselines(layers, prepared.ranker, fits)
    everything = list(policies.values())
    with stages.stage("measuring the comparison") as tick:
        kl = engine.measure(everything, prepared.calibration, tick)
        heldout = np.zeros((len(everything), 0))
        if prepared.heldout:
            heldout = engine.measure(everything, prepared.heldout, tick)
    answered = bool(prepared.heldout) and all(s.item.answers for s in prepared.heldout)
    stock = total_cost(flops, policies["original"], pairs)
    rows = []
    with stages.stage("answering the held-out questions") as tick:
        for i, (label, policy) in enumerate(policies.items()):
            cost = total_cost(flops, policy, pairs)
            answers = None
            if answered:
                answers = answer(engine.model, prepared.processor, prepared.heldout, policy)
            tick(i + 1, len(policies))
            rows.append(
                Row(label, policy, cost / stock, cost / len(pairs), kl[i], heldout[i], answers)
            )
    return rows


def _save(
    config: RunConfig,
    prepared: Prepared,
    problem: Problem,
    solution: Solution,
    rows: Sequence[Row],
    folder: RunFolder,
) -> RunResult:
    config.save(folder.config)
    save_solution(config, problem, solution, prepared.model_type, folder)
    comparison = table(rows)
    write_atomic(folder.comparison, lambda file: comparison.to_csv(file))
    return RunResult(config, problem, solution, comparison, folder.path)


def _joint_seconds(prepared: Prepared, engine: Engine) -> float:
    """Estimated seconds to measure every feasible policy on the calibration samples."""
    forward = engine.stock_seconds(prepared.calibration)
    return joint_forwards(prepared.space, prepared.constraints) * forward


def _facts(config: RunConfig, prepared: Prepared, model: Any) -> dict[str, Any]:
    """All that a measurement depends on besides item and policy, and what re-solving needs."""
    return {
        "model": fingerprint(model),
        "dtype": config.dtype,
        "attention": config.attention,
        "processor": processor_digest(prepared.processor),
        "positions": config.positions,
        "engine": ENGINE_VERSION,
        "model_type": prepared.model_type,
        "shape": dataclasses.asdict(prepared.shape),
    }


def _stored(sample: Sample) -> StoredSample:
    item = sample.item
    return StoredSample(sample.digest, item.id, item.family, sample.n_visual, sample.n_other)
