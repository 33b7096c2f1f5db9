"""A dry run's estimates equal the engine's plan, and known values for real shapes."""

import re
from io import StringIO

import numpy as np
import pytest
from rich.console import Console

from opsearch.commands.cli.printing import print_dry_run
from opsearch.commands.dry_run import dry_run
from opsearch.costs.shape import CHECKPOINTS
from opsearch.errors import InfeasibleBudgetError, UnknownNameError
from opsearch.measure.engine import Engine
from opsearch.measure.layout import Layout
from opsearch.measure.planning import policy_tables
from opsearch.measure.planning.batches import SampleBatch
from opsearch.measure.planning.estimate import estimate
from opsearch.measure.planning.flops import held_elements
from opsearch.measure.planning.memory import MemoryBudget, memory_for
from opsearch.measure.storage.store import Store
from opsearch.models.loading import load_weights
from opsearch.policy.ranker import RankerSpec
from opsearch.problem.spaces.base import N_V_16
from opsearch.problem.spaces.depth import depth_space, dop_space
from opsearch.progress import Progress
from opsearch.runs.config import RunConfig
from opsearch.runs.prepare import prepare, settle
from tests.support.messages import naming, refuses


def silent():
    return Console(file=StringIO())


def engine_plan(config, folder):
    """Return the engine's plan for all policies within the budget, with the same memory."""
    prepared, model = prepare(settle(config), Progress(silent(), 1)), load_weights("demo")
    space = prepared.settings.space
    points = space.points[prepared.effort_estimate.feasible]
    policies = [space.decode(point) for point in points.tolist()]
    memory = memory_for(model, config.memory_bytes)
    with Store(folder / "m.db", {}) as store:
        engine = Engine(model, store, config.positions, memory)
        return engine.plan(policies, prepared.calibration)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"space": "depth", "n_v": ("1/4", "1")},
        {"space": "stages", "n_v": ("1/4", "1")},
        {"kv": "stays"},
        {"space": "stages", "n_v": ("1/4", "1"), "ranker": "fastv"},
        {"space": "stages", "n_v": ("1/4", "1"), "ranker": "pyramiddrop"},
        {"n_v": ("1/4", "1/2", "1"), "ranker": "vispruner"},
        {"n_v": ("1/4", "1"), "budget": ("100%",)},
        {"space": "stages", "n_v": ("1/4",), "ranker": "fastv", "budget": ("100%",)},
    ],
)
@pytest.mark.parametrize("memory", [None, "4MB", "1MB"])
def test_a_dry_run_says_what_the_engine_plans(tmp_path, settings, memory):
    settings = {"budget": ("20%",), "memory": memory, **settings}
    config = RunConfig(samples=5, heldout=0, positions=2, **settings)
    said = dry_run(config, None, silent()).estimates["joint"]
    planned = engine_plan(config, tmp_path)
    assert (said.flops, said.nodes) == (planned.flops, planned.nodes)
    assert said.forwards == pytest.approx(planned.forwards)
    assert (said.passes, said.samples) == (len(planned.chunks), 5)
    held = [held_elements(at.trie, at.layout, planned.shape) for at in planned.chunks]
    assert said.elements == max(int(each.sum(axis=1).max()) for each in held)


def test_a_dry_run_says_what_coarse_to_fine_takes_where_all_is_beyond_the_effort():
    config = RunConfig(samples=4, heldout=0, space="depth", n_v=("1/4", "1/2", "1"), effort=0)
    plan, out = dry_run(config, None, silent()), StringIO()
    print_dry_run(plan, Console(file=out, width=300))
    first, every = plan.coarse.first, plan.estimates["joint"]
    assert first.flops < plan.coarse.flops < every.flops
    assert first.forwards < plan.coarse.forwards < every.forwards
    work = f"{first.policies:,} policies", f"{first.forwards:.1f} forwards"
    printed = naming("joint", "coarse", *work, f"{plan.coarse.forwards:.1f}")
    assert any(re.search(printed, line) for line in out.getvalue().splitlines())
    enough = config.model_copy(update={"effort": 4000.0})
    assert dry_run(enough, None, silent()).coarse is None
    whole = RunConfig(samples=4, heldout=0, space="tokens", effort=0)
    assert dry_run(whole, None, silent()).coarse is None  # a space without depths


def test_less_memory_is_more_parts_and_more_work():
    config = RunConfig(samples=8, heldout=0)
    plans = [
        dry_run(config.model_copy(update={"memory": memory}), None, silent())
        for memory in ("2GB", "4MB", "1MB", "300kB")
    ]
    found = [plan.estimates["joint"] for plan in plans]
    assert [each.parts for each in found] == sorted({each.parts for each in found})
    assert [each.forwards for each in found] == sorted({each.forwards for each in found})
    assert found[0].parts == 1
    for plan, each in zip(plans[:3], found, strict=False):
        assert each.elements * plan.memory.itemsize <= plan.memory.memory


def test_the_parts_of_a_true_shape_are_known_without_a_trie_for_each(monkeypatch):
    tries, build = [], policy_tables.build_trie
    monkeypatch.setattr(policy_tables, "build_trie", lambda *args: tries.append(1) or build(*args))
    config = RunConfig(samples=4, space="depth", n_v=("1/4", "1/2"), memory="1GB")
    found = dry_run(config, "llava-next-7b", silent()).estimates["joint"]
    assert found.parts > 100
    assert found.passes >= found.parts
    assert len(tries) < found.parts


@pytest.mark.parametrize("space", ["dop", "depth", "stages", "tokens"])
def test_no_policy_takes_nothing(space):
    """One budget admits only text-only policies, the other run lists only the original."""
    for settings in ({"budget": ("9.914%",)}, {"budget": ("100%",), "n_v": ("1",)}):
        if space == "tokens" and "n_v" not in settings:
            continue  # a space without a text-only policy
        config = RunConfig(samples=2, heldout=0, space=space, **settings)
        plan, out = dry_run(config, "llava-1.5-7b", silent()), StringIO()
        print_dry_run(plan, Console(file=out, width=300))
        for name, found in plan.estimates.items():
            printed = naming(name, f"{found.forwards:.1f} forwards", f"{found.nodes:,} nodes")
            assert re.search(printed, out.getvalue())
    made = dop_space(4, N_V_16[:1], RankerSpec("cls"))
    given = [SampleBatch(Layout(9, 3, 4, 0, 1), (), images=(0,))]
    nothing = estimate(
        made, made.points[:0], given, MemoryBudget(CHECKPOINTS["llava-1.5-7b"].shape)
    )
    assert (nothing.flops, nothing.passes, nothing.forwards) == (0, 0, 0.0)


def test_memory_cuts_each_ranking_for_itself():
    """A ranker that is not nested makes one ranking group per share; groups are not parts."""
    config = RunConfig(samples=2, ranker="uniform", memory="1000TB")
    assert dry_run(config, "llava-1.5-7b", silent()).estimates["joint"].parts == 1


@pytest.mark.parametrize(
    ("shape", "n_visual", "head", "tail", "forwards"),
    [("llava-1.5-7b", 576, 35, 30, 13.6), ("llava-next-7b", 2880, 35, 30, 8.4)],
)
def test_every_dop_policy_at_one_share_takes_a_few_forwards(shape, n_visual, head, tail, forwards):
    """The closed form gives 13.6 and 8.4 forwards for 529 policies."""
    space = dop_space(CHECKPOINTS[shape].shape.layers, N_V_16[:1], RankerSpec("cls"))
    layout = Layout(n_visual, head, tail, 0, 1)
    memory = MemoryBudget(CHECKPOINTS[shape].shape)
    found = estimate(space, space.points, [SampleBatch(layout, (), images=(0, 1, 2))], memory)
    assert found.policies == 529
    assert found.forwards == pytest.approx(forwards, abs=0.25)
    once = estimate(space, space.points, [SampleBatch(layout, (), images=(0,))], memory)
    assert (found.flops, found.nodes) == (3 * once.flops, 3 * once.nodes)
    assert found.elements == once.elements
    assert (found.parts, found.passes) == (1, 1)


def test_more_policies_share_more():
    """Half of the points take more than half of the FLOPs."""
    space = depth_space(12, N_V_16[::4], RankerSpec("cls"))
    given = (
        [SampleBatch(Layout(100, 2, 8, 0, 1), (), images=(0,))],
        MemoryBudget(CHECKPOINTS["llava-1.5-7b"].shape),
    )
    everything = estimate(space, space.points, *given)
    random = np.random.default_rng(0).permutation(len(space.points))[: len(space.points) // 2]
    half = estimate(space, space.points[np.sort(random)], *given)
    assert everything.flops / 2 < half.flops < everything.flops


def test_a_shape_needs_no_data_and_bad_ones_are_named():
    config = RunConfig(data="nowhere.jsonl", samples=2, device="cuda")
    plan = dry_run(config, "llava-next-7b", silent())
    assert plan.estimates["additive"].policies == 33 + 33 + 16
    assert plan.seconds["joint"] == pytest.approx(plan.estimates["joint"].flops / 100e12)
    with refuses(UnknownNameError, "shape", "'gpt'", "llava-1.5-7b"):
        dry_run(config, "gpt", silent())
    with refuses(InfeasibleBudgetError, "1%", "dop", "9.913%", "--budget 10.0%"):
        dry_run(RunConfig(budget=("1%",)), "llava-1.5-7b", silent())
