"""The one entry: a RunConfig becomes measurements, a solution, a policy file and a table.

Everything measured is in the run folder's store before it is used, so an interrupted run goes on
where it stopped when it is started again with the same settings.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console

from opsearch.comparison import compare, table
from opsearch.config import RunConfig
from opsearch.files import write_atomic
from opsearch.measure.engine import ENGINE_VERSION, Engine
from opsearch.measure.samples import Sample, processor_digest
from opsearch.measure.store import Store, StoredSample
from opsearch.prepare import Prepared, prepare
from opsearch.problem import Problem
from opsearch.progress import Stages
from opsearch.results import save_solution
from opsearch.run_folder import RunFolder
from opsearch.runtime.load import fingerprint, load_model
from opsearch.search import search
from opsearch.solution import Solution

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
    stages = Stages(console or Console(stderr=True, markup=False), _STAGES)
    prepared = prepare(config, stages)
    config, choice = prepared.config, prepared.choice
    if choice.reason:
        stages.say(choice.reason)
    with RunFolder(config.out).locked() as folder:
        config.save(folder.config)
        with stages.stage("loading the model"):
            model = load_model(config.model, config.dtype, config.device, config.attention)
        with Store(folder.measurements, _facts(config, prepared, model)) as store:
            store.put_samples("calibration", [_stored(s) for s in prepared.calibration])
            store.put_samples("held-out", [_stored(s) for s in prepared.heldout])
            engine = Engine(model, store, config.positions)
            with stages.stage(f"measuring {choice.maker.name}, solving") as tick:
                problem, solution = search(
                    choice,
                    prepared.space,
                    prepared.constraints,
                    lambda policies: engine.measure(policies, prepared.calibration, tick),
                    config,
                )
            assert solution.policy is not None  # search() raises otherwise
            comparison = table(compare(prepared, solution.policy, engine, stages))
        save_solution(config, problem, solution, prepared.model_type, folder)
        write_atomic(folder.comparison, lambda file: comparison.to_csv(file))
        return RunResult(config, problem, solution, comparison, folder.path)


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
