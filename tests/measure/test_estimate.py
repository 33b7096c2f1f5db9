"""What a dry run says is what the engine plans, and what is known of true shapes."""

from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from opsearch.config import RunConfig
from opsearch.costs.shape import SHAPES
from opsearch.dry_run import dry_run
from opsearch.errors import InfeasibleBudgetError, UnknownNameError
from opsearch.measure.engine import Engine
from opsearch.measure.estimate import estimate
from opsearch.measure.store import Store
from opsearch.measure.trie import ONE, Layout, Size
from opsearch.policy import RankerSpec
from opsearch.prepare import prepare
from opsearch.problem import feasible_points
from opsearch.progress import Stages
from opsearch.runtime.load import load_model
from opsearch.spaces import N_V_16, depth_space, dop_space


def silent():
    return Console(file=StringIO())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"space": "depth", "n_v": ("1/4", "1")},
        {"space": "stages", "n_v": ("1/4", "1")},
        {"kv": "stays"},
        {"space": "stages", "n_v": ("1/4", "1"), "ranker": "fastv"},
        {"space": "stages", "n_v": ("1/4", "1"), "ranker": "pyramiddrop"},
    ],
)
def test_a_dry_run_says_what_the_engine_plans(tmp_path, settings):
    config = RunConfig(samples=5, heldout=0, budget=("20%",), positions=2, **settings)
    said = dry_run(config, None, silent()).estimates["joint"]
    prepared = prepare(config, Stages(silent(), 1))
    points = prepared.space.points[feasible_points(prepared.space, prepared.constraints)]
    policies = [prepared.space.decode(point) for point in points.tolist()]
    with Store(tmp_path / "m.db", {}) as store:
        engine = Engine(load_model("demo"), store, config.positions)
        planned = engine.plan(policies, prepared.calibration)
    assert (said.flops, said.nodes) == (planned.flops, planned.nodes)
    assert said.forwards == pytest.approx(planned.forwards)
    assert (said.policies, said.samples) == (len(policies), 5)


@pytest.mark.parametrize(
    ("shape", "n_visual", "head", "tail", "forwards"),
    [("llava-1.5-7b", 576, 35, 30, 13.6), ("llava-next-7b", 2880, 35, 30, 8.4)],
)
def test_every_dop_policy_at_one_share_takes_a_few_forwards(shape, n_visual, head, tail, forwards):
    """The closed form of the design: 13.6 and 8.4 forwards for 529 policies."""
    space = dop_space(SHAPES[shape].layers, N_V_16[:1], RankerSpec("cls"))
    layout = Layout(n_visual, head, tail, 0, 1)
    layouts = {layout: Size(3, images=3)}
    found = estimate(space, space.points, layouts, SHAPES[shape])
    assert found.policies == 529
    assert found.forwards == pytest.approx(forwards, abs=0.25)
    once = estimate(space, space.points, {layout: ONE}, SHAPES[shape])
    assert (found.flops, found.nodes) == (3 * once.flops, 3 * once.nodes)
    assert found.elements == once.elements


def test_more_policies_share_more():
    """Half of the points cost more than half of the FLOPs."""
    space = depth_space(12, N_V_16[::4], RankerSpec("cls"))
    layouts = {Layout(100, 2, 8, 0, 1): ONE}
    everything = estimate(space, space.points, layouts, SHAPES["llava-1.5-7b"])
    random = np.random.default_rng(0).permutation(len(space.points))[: len(space.points) // 2]
    half = estimate(space, space.points[np.sort(random)], layouts, SHAPES["llava-1.5-7b"])
    assert everything.flops / 2 < half.flops < everything.flops


def test_a_shape_needs_no_data_and_bad_ones_are_named():
    config = RunConfig(data="nowhere.jsonl", samples=2, device="cuda")
    plan = dry_run(config, "llava-next-7b", silent())
    assert plan.estimates["additive"].policies == 33 + 33 + 16
    assert plan.seconds["joint"] == pytest.approx(plan.estimates["joint"].flops / 100e12)
    with pytest.raises(UnknownNameError, match=r"unknown shape 'gpt'; available: .*llava-1\.5-7b"):
        dry_run(config, "gpt", silent())
    with pytest.raises(InfeasibleBudgetError, match="below the cheapest policy"):
        dry_run(RunConfig(budget=("1%",)), "llava-1.5-7b", silent())
