"""Settings become typed parts, and the joint objective is estimated as the engine measures it."""

import os
from fractions import Fraction

import pytest

from opsearch.costs import Flops
from opsearch.costs.shape import Shape
from opsearch.errors import OpsearchError, UnknownNameError
from opsearch.measure.engine import Engine
from opsearch.measure.layout import Layout
from opsearch.measure.planning.batches import SampleBatch, group_samples
from opsearch.measure.planning.memory import MemoryBudget
from opsearch.measure.storage.store import Store
from opsearch.models.families import family_for
from opsearch.policy.counts import MLP
from opsearch.policy.ranker import RankerSpec
from opsearch.problem.budget import Budget
from opsearch.problem.constraint import feasible_points
from opsearch.problem.spaces.base import SpaceSettings
from opsearch.runs.config import RunConfig
from opsearch.runs.effort import EffortEstimate
from opsearch.runs.setup import (
    check_named,
    make_constraints,
    make_space,
    parse_budgets,
    resolve,
)
from tests.measure import families
from tests.support.messages import naming, refuses


@pytest.mark.parametrize("name", ["tokens", "dop", "depth", "stages"])
@pytest.mark.parametrize("positions", [1, 3])
def test_joint_seconds_are_the_flops_of_the_engine_at_a_nominal_speed(name, positions, tmp_path):
    model = families.model()
    shape = Shape.from_config(model.config)
    config = RunConfig(space=name, n_v=("1/3", "2/3"), positions=positions)
    space = resolve(config, shape.layers, RankerSpec("cls")).space
    # A long system prompt, none at all, text between two images.
    samples = [families.sample(runs) for runs in ([40, 5], [0, 8], [2, 3, 6])]
    pairs = [sample.shape for sample in samples]
    batches = group_samples(samples, family_for("llava"), model.config, positions)
    constraints = make_constraints([Budget.parse("85%")], shape, space, pairs)
    policies = [space.decode(p) for p in space.points[feasible_points(space, constraints)].tolist()]
    with Store(tmp_path / "measurements.db", {}) as store:
        planned = Engine(model, store, positions).plan(policies, samples).flops
    seconds = EffortEstimate(space, constraints, batches, MemoryBudget(shape), "cpu").joint_seconds
    assert seconds == pytest.approx(planned / (15e9 * os.cpu_count()), rel=1e-12)


def test_joint_seconds_are_far_fewer_than_those_of_one_by_one():
    """The whole dop table of a 7B model, 528 policies but the original, in 22.5 forwards.

    Text before the image is computed once.
    """
    shape = Shape(32, 4096, 11008, 32, 32, 128, 32064)
    space = make_space("dop", SpaceSettings(num_layers=32, ranker=RankerSpec("cls"), n_v=(1,)))
    assert len(space.points) == 529
    for head, wanted in ((0, 22.5), (35, 13.4)):
        batch = SampleBatch(Layout(576, head, 65 - head, inner=0, answers=1), (), images=(0,))
        seconds = EffortEstimate(space, (), [batch], MemoryBudget(shape), "cuda").joint_seconds
        forwards = seconds * 100e12 / Flops(shape).stock(576, 65)
        assert forwards == pytest.approx(wanted, abs=0.1)


def test_budgets_of_unknown_costs_are_refused_when_read():
    assert [budget.cost for budget in parse_budgets(["30%", "50%kv"])] == ["flops", "kv"]
    with pytest.raises(UnknownNameError, match=naming("'joules'", "flops", "kv")):
        parse_budgets(["30%", "50% joules"])


def test_another_space_is_told_nothing_that_it_cannot_take():
    ranker = RankerSpec("cls")
    given = resolve(RunConfig(space="layers", keep="0:mlp", tie="q=kv", seed=3), 4, ranker)
    other = given.in_space("operations", ranker, 2)
    assert (other.space_settings.keep, other.space_settings.tie) == ({(0, MLP)}, False)
    assert other.space == make_space("operations", other.space_settings)
    dop = given.in_space("dop", ranker, 2)
    assert (dop.space.name, dop.space_settings.keep, dop.space_settings.tie) == ("dop", None, False)
    assert dop.seed == 3


def test_groups_go_to_the_space_that_reads_them():
    ranker = RankerSpec("cls")
    given = resolve(RunConfig(space="operations", groups="12.5%,.25,1"), 4, ranker)
    assert given.space.levels == (0, Fraction(1, 8), Fraction(1, 4), 1)
    dop = given.in_space("dop", ranker, 2)
    assert (dop.space.name, dop.space_settings.groups) == ("dop", None)
    assert given.in_space("operations", ranker, 2).space == given.space
    usual = resolve(RunConfig(space="operations"), 4, ranker).space
    assert resolve(RunConfig(space="operations", groups="1/4,1"), 4, ranker).space == usual
    for space in ("dop", "layers", "stages"):
        with refuses(OpsearchError, "--groups 1/8,1", "operations", repr(space)):
            resolve(RunConfig(space=space, groups="1/8,1"), 4, ranker)


def test_the_space_of_a_run_that_was_an_object_is_explained_before_torch_is_loaded():
    with refuses(OpsearchError, "'mine'", "object"):
        check_named(RunConfig(space="mine (an object)"))
