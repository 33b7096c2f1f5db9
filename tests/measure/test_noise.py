"""The noise floor in half precision: rounding of the original, used as the tie width."""

from dataclasses import replace
from io import StringIO

import numpy as np
import torch
from rich.console import Console

from opsearch import RunConfig
from opsearch.commands.cli.printing import print_summary
from opsearch.commands.run import run
from opsearch.commands.solve import solve
from opsearch.measure.engine import Engine
from opsearch.measure.storage.noise import ONE_BY_ONE, TOGETHER, noise_floor
from opsearch.measure.storage.store import Store
from opsearch.problem.objective import KL_QUANTUM
from tests.measure import families
from tests.support.measured import stored_count

SAMPLES = [families.sample(runs, seed) for runs in ([3, 4], [2, 3, 4]) for seed in range(3)]
ITEMS = [sample.digest for sample in SAMPLES]


def test_single_precision_needs_no_measurement(store):
    assert Engine(families.model(), store).noise_floor(SAMPLES) == KL_QUANTUM
    assert stored_count(store) == 0


def test_the_floor_is_the_larger_mean_of_two_chunkings_and_is_stored(store):
    floor = Engine(families.model(dtype=torch.bfloat16), store).noise_floor(SAMPLES)
    found = store.get([TOGETHER, ONE_BY_ONE])
    assert len(found) == 2 * len(SAMPLES)
    means = [np.mean([found[key, item] for item in ITEMS]) for key in (TOGETHER, ONE_BY_ONE)]
    assert KL_QUANTUM < max(means) <= floor < 2 * max(means)
    assert float(f"{floor:.0e}") == floor  # one digit
    assert noise_floor(store, ITEMS) == floor


def test_the_floor_is_the_same_every_time_and_measured_once(store, tmp_path):
    model = families.model(dtype=torch.bfloat16)
    first = Engine(model, store).noise_floor(SAMPLES)
    again = Engine(model, store)
    assert (again.noise_floor(SAMPLES), again.measured) == (first, 0)
    with Store(tmp_path / "other.db", {}) as other:
        assert Engine(model, other).noise_floor(SAMPLES) == first
        assert other.get([TOGETHER, ONE_BY_ONE]) == store.get([TOGETHER, ONE_BY_ONE])


def test_a_run_and_solving_again_compare_in_steps_of_one_floor(tmp_path):
    config = RunConfig(
        dtype="bfloat16",
        samples=2,
        heldout=0,
        space="tokens",
        objective="joint",
        out=tmp_path / "run",
    )
    silent = Console(file=StringIO())
    result = run(config, silent)
    with Store(tmp_path / "run" / "measurements.db") as store:
        floor = noise_floor(store, [sample.item for sample in store.calibration()])
    values = result.problem.objective.values
    known = values[~np.isnan(values)] / floor
    assert result.problem.objective.quantum == floor >= KL_QUANTUM
    assert np.abs(known - np.rint(known)).max() < 1e-6
    found = solve(tmp_path / "run", out=tmp_path / "again")
    problem, solution = found.problem, found.solution
    assert problem.objective.quantum == floor
    assert (solution.policy, solution.value) == (result.solution.policy, result.solution.value)


def test_the_floor_is_printed(tmp_path):
    """At a floor of 90 nats all policies tie, so the cheapest is chosen."""
    settings = {"samples": 2, "heldout": 0, "space": "tokens"}
    run(
        RunConfig(**settings, objective="joint", complete=True, out=tmp_path / "run"),
        Console(file=StringIO()),
    )
    fine = solve(tmp_path / "run", out=tmp_path / "fine").solution
    with Store(tmp_path / "run" / "measurements.db") as store:
        items = [sample.item for sample in store.calibration()]
        known = next(store.everything())
        store.add(replace(known, policy=TOGETHER, item=item, kl=90.0) for item in items)
    found = solve(tmp_path / "run", out=tmp_path / "coarse")
    problem, coarse = found.problem, found.solution
    assert coarse.costs["flops"] == problem.constraints[0].costs.min() < fine.costs["flops"]
    assert coarse.value == 0
    said = Console(file=StringIO(), width=200)
    print_summary(problem, coarse, said)
    assert "9e+01 nats" in said.file.getvalue()
