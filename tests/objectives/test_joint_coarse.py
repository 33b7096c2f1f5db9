"""Coarse-to-fine search: close to the optimum of the full table, with fewer measurements.

The table covers the depth space of the embedded model at two shares of tokens.
"""

import json
import re
from fractions import Fraction
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from opsearch import RunConfig
from opsearch.commands.dry_run import dry_run
from opsearch.commands.run import run
from opsearch.costs import COSTS
from opsearch.costs.shape import Shape
from opsearch.errors import OpsearchError
from opsearch.formatting import format_duration
from opsearch.measure.engine import Engine
from opsearch.measure.layout import Layout
from opsearch.measure.planning.batches import SampleBatch
from opsearch.measure.planning.memory import MemoryBudget
from opsearch.measure.storage.store import Store
from opsearch.models.loading import load_config
from opsearch.objectives.joint import Joint
from opsearch.objectives.joint_coarse import CoarseJoint
from opsearch.policy.ranker import RankerSpec
from opsearch.problem.budget import Budget, constraint
from opsearch.problem.constraint import feasible_points
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Status
from opsearch.problem.spaces.depth import depth_space, dop_space, tokens_space
from opsearch.problem.spaces.stages import stages_space
from opsearch.runs.effort import EffortEstimate
from opsearch.solvers.grid import Grid
from tests.measure.demo import LAYERS, model, samples
from tests.support.messages import naming, refuses

N_V = (Fraction(1, 2), Fraction(1, 5))
SPACE = depth_space(LAYERS, N_V, RankerSpec("cls"))
SAMPLES = samples(4)
SHAPE = Shape.from_config(load_config("demo"))


POINT_OF = {SPACE.decode(point): row for row, point in enumerate(SPACE.points.tolist())}


def limit(budget, space=SPACE):
    pairs = [sample.shape for sample in SAMPLES]
    return constraint(Budget.parse(budget), COSTS["flops"](SHAPE), space, pairs)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """Return the joint divergence of every policy within 50 %."""
    with Store(tmp_path_factory.mktemp("full") / "m.db", {}) as store:
        engine = Engine(model(), store)
        feasible = feasible_points(SPACE, [limit("50%")])
        return Joint().make(SPACE, lambda p: engine.measure(p, SAMPLES), feasible)


class Stored:
    """A lookup of divergences in the full table that records the requested policies."""

    def __init__(self, table, space=SPACE):
        rows = space.points.tolist()
        self.of = {space.decode(row): value for row, value in zip(rows, table, strict=True)}
        self.asked = []

    def __call__(self, policies):
        self.asked += policies
        return np.array([[self.of[policy]] for policy in policies])


def solve(full, budget):
    """Return the solution of the coarse table and the measured policies."""
    stored, limits = Stored(full.values), (limit(budget),)
    table = CoarseJoint().make(SPACE, stored, feasible_points(SPACE, limits))
    return Grid().solve(Problem(SPACE, table, limits)), stored.asked


def test_it_comes_close_to_the_optimum_with_a_part_of_the_measurements(full):
    regrets, shares = [], []
    for percent in range(10, 51, 2):
        limits = (limit(f"{percent}%"),)
        best = Grid().solve(Problem(SPACE, full, limits))
        found, asked = solve(full, f"{percent}%")
        regrets.append(found.value - best.value)
        shares.append(len(asked) / best.evaluations)
        assert found.costs["flops"] <= limits[0].limit
    assert min(regrets) >= 0
    # In nats; the median says that half of the budgets reach the optimum.
    assert np.median(regrets) == 0
    assert max(regrets) <= 0.02
    assert np.mean(shares) <= 0.4


def test_it_says_what_was_measured_and_claims_no_proof(full):
    found, asked = solve(full, "30%")
    total = int(feasible_points(SPACE, [limit("30%")]).sum())
    assert (found.status, found.bound) == (Status.FEASIBLE, None)
    assert found.evaluations == len(asked) == len(set(asked)) < total
    assert re.search(naming(total - len(asked), total, "4th depth"), found.note)


def test_what_it_takes_is_about_what_was_guessed_before(full):
    """FLOPs of all rounds: the guess is no bound, and it is not far off."""
    batch, stored = SampleBatch(Layout(100, 2, 8, 0, 1), (), images=(0,)), Stored(full.values)
    shares = []
    for percent in range(10, 51, 4):
        estimate = EffortEstimate(
            SPACE, [limit(f"{percent}%")], [batch], MemoryBudget(SHAPE), "cpu"
        )
        rounds = []

        def measure(policies, estimate=estimate, rounds=rounds):
            points = [SPACE.points[POINT_OF[policy]] for policy in policies]
            rounds.append(estimate.of(np.array(points)).flops)
            return stored(policies)

        CoarseJoint().make(SPACE, measure, estimate.feasible)
        assert rounds[0] == estimate.coarse.first.flops
        assert estimate.coarse.flops <= estimate.joint.flops
        shares.append(sum(rounds) / estimate.coarse.flops)
    # The numbers of docs/benchmarks.md.
    found = min(shares), np.median(shares), max(shares)
    assert found == pytest.approx((0.3, 0.8, 1.2), abs=0.05)


def test_it_is_deterministic(full):
    assert solve(full, "40%")[1] == solve(full, "40%")[1]


def test_what_is_near_the_answer_was_measured(full):
    """No policy within a distance of two in each depth and in share is better."""
    found, asked = solve(full, "30%")
    depths = SPACE.live_depths(SPACE.points)
    near = (np.abs(depths - depths[found.index]) <= 2).all(axis=1)
    near &= feasible_points(SPACE, [limit("30%")])
    assert near.sum() > 20
    assert {SPACE.decode(point) for point in SPACE.points[near].tolist()} <= set(asked)
    assert found.value == full.values[near].min()


def test_where_no_coarse_point_is_feasible_it_starts_finer(full):
    odd = (SPACE.points[:, :3] % 2 == 1).any(axis=1) & (SPACE.points[:, 1] == 3)
    odd &= ~np.isnan(full.values)
    table = CoarseJoint().make(SPACE, Stored(full.values), odd)
    assert re.search(naming("every depth"), table.how)
    assert np.nanmin(table.values) == full.values[odd].min()
    assert np.isnan(table.values[~odd]).all()


@pytest.mark.parametrize(
    "space",
    [
        tokens_space(LAYERS, N_V, RankerSpec("cls")),
        dop_space(LAYERS, N_V, RankerSpec("cls")),
        dop_space(LAYERS, N_V, RankerSpec("cls"), "stays"),
        stages_space(LAYERS, N_V, RankerSpec("cls")),
    ],
    ids=["tokens", "dop, kv leaves", "dop, kv stays", "stages"],
)
def test_every_space_of_depths_is_searched(space):
    """The search reaches the minimum of a smooth objective."""
    depths = space.live_depths(space.points)
    values = np.abs(depths - depths[len(depths) // 3]).sum(axis=1) / 10
    table = CoarseJoint().make(space, Stored(values, space), np.ones(len(values), bool))
    assert np.nanmin(table.values) == 0


def test_a_space_without_depths_is_refused():
    class Other:
        name, only_objective, layer_columns = "bits", None, None

    with refuses(OpsearchError, "'bits'", "--effort"):
        CoarseJoint().make(Other(), None, np.ones(1, bool))


def test_a_run_takes_it_where_the_whole_table_is_beyond_the_effort_and_it_is_within(tmp_path):
    settings = {"samples": 3, "heldout": 0, "n_v": (".5",), "space": "depth", "out": tmp_path}
    silent = Console(file=StringIO())
    seconds = dry_run(RunConfig(**settings, effort=0), None, silent).seconds
    assert seconds["coarse"] < seconds["raced"] < seconds["joint"]
    said = StringIO()
    config = RunConfig(**settings, effort=(seconds["coarse"] + seconds["raced"]) / 2)
    result = run(config, Console(file=said, width=200))
    (reason,) = [line for line in said.getvalue().splitlines() if "--effort" in line]
    allowed, coarse = config.effort, format_duration(seconds["coarse"])
    every = format_duration(seconds["raced"])
    assert re.search(naming("joint", "coarse", every, f"--effort {allowed:g}", coarse), reason)
    assert (result.config.objective, result.config.solver) == ("joint", "grid")
    assert result.solution.status is Status.FEASIBLE
    stored = json.loads((tmp_path / "solution.json").read_text())
    assert stored["note"] == result.solution.note
    assert "depth" in stored["note"]
