"""What the joint objective would take is counted as the engine would measure it: together."""

import os

import pytest

from opsearch.budget import Budget
from opsearch.config import RunConfig
from opsearch.costs import Flops, Shape
from opsearch.measure.engine import Engine
from opsearch.measure.store import Store
from opsearch.policy import RankerSpec
from opsearch.problem import feasible_points
from opsearch.problem_setup import joint_seconds, make_constraints, make_space
from tests.measure import families


@pytest.mark.parametrize("name", ["tokens", "dop", "depth", "stages"])
@pytest.mark.parametrize("positions", [1, 3])
def test_joint_seconds_are_the_flops_of_the_engine_at_a_nominal_speed(name, positions, tmp_path):
    model = families.model()
    shape = Shape.from_config(model.config)
    config = RunConfig(space=name, n_v=("1/3", "2/3"), positions=positions)
    space = make_space(config, shape.layers, RankerSpec("cls"))
    # No text before the image, none between images: then token numbers say all.
    samples = [families.sample(runs) for runs in ([0, 5], [0, 8], [0, 0, 6])]
    pairs = [sample.shape for sample in samples]
    constraints = make_constraints([Budget.parse("60%")], shape, space, pairs)
    policies = [space.decode(p) for p in space.points[feasible_points(space, constraints)].tolist()]
    with Store(tmp_path / "measurements.db", {}) as store:
        planned = Engine(model, store, positions).plan(policies, samples).flops
    seconds = joint_seconds(space, constraints, shape, pairs, config)
    assert seconds == pytest.approx(planned / (15e9 * os.cpu_count()), rel=1e-12)


def test_joint_seconds_are_far_fewer_than_those_of_one_by_one():
    """The whole dop table of a 7B model, 528 policies but the original, in 22.5 forwards."""
    shape = Shape(32, 4096, 11008, 32, 32, 128, 32064)
    config = RunConfig(n_v=("1",), device="cuda")
    space = make_space(config, 32, RankerSpec("cls"))
    seconds = joint_seconds(space, (), shape, [(576, 65)], config)
    forwards = seconds * 100e12 / Flops(shape).stock(576, 65)
    assert len(space.points) == 529
    assert forwards == pytest.approx(22.5, abs=0.1)
