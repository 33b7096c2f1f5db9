"""Spaces list every distinct policy once, and decode and resolve points alike."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from opsearch.costs.base import policy_cost
from opsearch.costs.flops import Flops
from opsearch.costs.prefill import Prefill
from opsearch.costs.shape import CHECKPOINTS
from opsearch.policy import builders
from opsearch.policy.counts import MLP, live
from opsearch.policy.ranker import RankerSpec
from opsearch.policy.schedule import RerankingTable
from opsearch.problem.spaces import SPACES
from opsearch.problem.spaces.base import N_V_8, N_V_16, SpaceSettings, space_costs
from opsearch.problem.spaces.depth import depth_space, dop_space, tokens_space
from opsearch.problem.spaces.operations import layers_space, operations_space
from opsearch.problem.spaces.point_policies import PointPolicies, canonical_keys
from opsearch.problem.spaces.stages import stages_space
from tests.support.messages import naming

CLS = RankerSpec("cls")
FASTV, PYRAMIDDROP = RankerSpec("fastv"), RankerSpec("pyramiddrop")
HALF = (Fraction(1, 2),)
SHARES = (Fraction(1, 4), Fraction(1, 2))

SOME = {
    "tokens": tokens_space(4, N_V_16, CLS),
    "dop, kv leaves": dop_space(4, SHARES, CLS),
    "dop, kv stays": dop_space(4, SHARES, CLS, kv="stays"),
    "depth": depth_space(3, SHARES, CLS),
    "depth of one layer": depth_space(1, SHARES, CLS),
    "one stage": stages_space(4, SHARES, CLS, stages=1),
    "two stages": stages_space(3, SHARES, CLS),
    "three stages": stages_space(2, HALF, CLS, stages=3),
    "stages of one layer": stages_space(1, SHARES, CLS),
    "two stages, fastv": stages_space(3, SHARES, FASTV),
    "two stages, pyramiddrop": stages_space(3, SHARES, PYRAMIDDROP),
    "three stages, sparsevlm": stages_space(4, SHARES, RankerSpec("sparsevlm"), stages=3),
    "fastv in one layer": stages_space(1, SHARES, FASTV),
}


@pytest.fixture(params=SOME.values(), ids=SOME.keys())
def space(request):
    return request.param


def everything(space):
    return np.array(list(product(*(range(len(p.values)) for p in space.parameters))))


def test_points_are_distinct_policies_and_all_of_them(space):
    """By the keys of decoded policies, for a sample on which all shares differ."""
    listed = [space.decode(point).canonical(576) for point in space.points]
    assert len(set(listed)) == len(listed)
    assert set(listed) == {space.decode(point).canonical(576) for point in everything(space)}


def test_points_are_sorted_rows_of_indices(space):
    points = space.points
    assert points.dtype == np.int64
    assert points.shape[1] == len(space.parameters)
    assert points.tolist() == sorted(points.tolist())


def test_any_row_of_values_is_the_policy_of_a_listed_point(space):
    for point in everything(space):
        listed = space.decode(space.points[space.index_of(point)])
        assert listed.canonical(576) == space.decode(point).canonical(576)
    assert [space.index_of(point) for point in space.points] == list(range(len(space.points)))


def test_the_point_of_a_policy_has_its_largest_depths(space):
    """The largest of the points that are one policy is listed: all that it prunes is pruned."""
    if space.name == "stages":
        pytest.skip("lists the stages that prune first")
    listed = {space.decode(point).canonical(576): tuple(point) for point in space.points}
    for point in everything(space):
        representative = listed[space.decode(point).canonical(576)]
        assert representative >= tuple(point)


def test_the_last_point_is_the_original_without_its_dead_operations(space):
    assert space.points[-1].tolist() == [len(p.values) - 1 for p in space.parameters]
    policy = space.decode(space.points[-1])
    assert policy.canonical(576) == builders.identity(space.num_layers).canonical(576)
    # Where all operations have the same tokens there is no other way to say it.
    assert policy.is_identity(576) == (space.name in ("tokens", "stages"))


@pytest.mark.parametrize("n_visual", [0, 1, 9, 577])
def test_points_resolve_as_their_policies_do(space, n_visual):
    points = everything(space)
    counts = space.resolved(points, n_visual)
    assert counts.shape == (len(points), space.num_layers, 3)
    assert counts.dtype == np.int64
    for point, table in zip(points, counts, strict=True):
        assert table.tolist() == space.decode(point).resolve(n_visual).tolist()


@pytest.mark.parametrize("n_visual", [0, 1, 2, 9, 577])
def test_rerankings_from_arrays_are_those_of_the_policies(space, n_visual):
    schedules = [space.decode(point).schedule(n_visual) for point in space.points]
    found = space.rerankings(space.points, n_visual)
    wanted = RerankingTable.of([each.rerankings for each in schedules], space.num_layers)
    assert (found is None) == (wanted is None)
    if wanted is not None:
        for table in ("ranker", "candidates", "back"):
            assert np.array_equal(getattr(found, table), getattr(wanted, table)), table
    counts = live(
        space.resolved(space.points, n_visual), found.candidates_by_layer if found else None
    )
    assert np.array_equal(counts, [each.live for each in schedules])


@pytest.mark.parametrize("n_visual", [0, 1, 2, 9, 577])
def test_keys_from_arrays_are_those_of_the_policies(space, n_visual):
    """Stores of earlier versions stay readable: the keys may never change."""
    policies = PointPolicies(space, space.points)
    wanted = [space.decode(point).canonical(n_visual) for point in space.points]
    assert policies.canonical(n_visual) == wanted
    assert canonical_keys(list(policies), n_visual) == wanted


@pytest.mark.parametrize(
    "space",
    [
        layers_space(2, HALF, CLS),
        layers_space(3, HALF, CLS, tied=True),
        layers_space(3, SHARES, kept=[(0, MLP)], tied=True),
        operations_space(2, ranker=CLS),
    ],
    ids=["layers", "tied", "without a ranker", "operations"],
)
def test_keys_of_rows_in_spaces_that_are_not_listed(space):
    rows = everything(space)
    wanted = [space.decode(point).canonical(9) for point in rows]
    assert PointPolicies(space, rows).canonical(9) == wanted


def test_keys_do_not_depend_on_how_many_points_are_computed_together(monkeypatch):
    space = SOME["two stages, pyramiddrop"]
    whole = PointPolicies(space, space.points).canonical(9)
    assert len(space.points) > 7
    monkeypatch.setattr("opsearch.problem.spaces.point_policies.POINTS_AT_ONCE", 7)
    assert PointPolicies(space, space.points).canonical(9) == whole


def test_a_part_of_the_policies_is_decoded_alike():
    space = SOME["dop, kv leaves"]
    policies = PointPolicies(space, space.points)
    assert list(policies[2:4]) == [policies[2], policies[3]]
    assert policies[-1] == space.decode(space.points[-1])
    assert PointPolicies(space, space.points[:0]).canonical(9) == []


@pytest.mark.parametrize("counted", [Flops, Prefill])
@pytest.mark.parametrize("name", ["two stages, fastv", "two stages, pyramiddrop"])
def test_points_cost_what_their_policies_cost(name, counted):
    """Candidates of a ranker inside the decoder are alive until it acts."""
    space, pairs = SOME[name], [(9, 5), (577, 5), (9, 6)]
    cost = counted(CHECKPOINTS["llava-1.5-7b"].shape)
    policies = [space.decode(point) for point in space.points]
    wanted = [sum(policy_cost(cost, policy, *pair) for pair in pairs) for policy in policies]
    assert space_costs(cost, space, pairs).tolist() == wanted


def test_a_stage_begins_where_its_ranker_can_act():
    space = stages_space(3, SHARES, FASTV)
    policy = space.decode([0, 1, 2, 0])  # from layer 0 on a quarter, from layer 2 on nothing
    assert policy.rankers == ((1, FASTV),)
    assert policy.resolve(8).tolist() == [[8] * 3, [2] * 3, [0] * 3]
    again = stages_space(3, SHARES, PYRAMIDDROP).decode([0, 1, 2, 0])
    assert again.rankers == ((0, PYRAMIDDROP),)
    assert again.resolve(8).tolist() == [[2] * 3, [2] * 3, [0] * 3]


def test_resolving_no_points_gives_no_counts(space):
    none = np.empty((0, len(space.parameters)), np.int64)
    assert space.resolved(none, 9).shape == (0, space.num_layers, 3)


def test_parameters_are_ascending(space):
    for parameter in space.parameters:
        assert list(parameter.values) == sorted(set(parameter.values))


@pytest.mark.parametrize(
    ("space", "size"),
    [
        (dop_space(32, HALF), 2 * 528 + 1),
        (dop_space(32, (Fraction(1),)), 529),
        (dop_space(32, (Fraction(1),), kv="stays"), 1024),
        (depth_space(12, (Fraction(1),)), 651),
        (dop_space(12, (Fraction(1),)), 79),
        (tokens_space(32), 16),
        (stages_space(32, stages=1), 1 + 32 * 16),
        (stages_space(32), 1 + 32 * 16 + 496 * 120),
        (stages_space(12), 1 + 12 * 16 + 66 * 120),
        (stages_space(4, HALF, stages=3), 1 + 4 * 2 + 6 * 1),
    ],
    ids=[
        "dop, two shares",
        "dop",
        "dop, kv stays",
        "depth",
        "dop at 12",
        "tokens",
        "one stage",
        "two stages",
        "two stages at 12",
        "more stages than shares",
    ],
)
def test_sizes(space, size):
    assert len(space.points) == size


def test_the_original_is_always_among_the_shares():
    assert tokens_space(4, HALF).parameters[0].values == (Fraction(1, 2), Fraction(1))


def test_published_lists_of_shares():
    assert len(N_V_16) == 16
    assert N_V_16[0] == 1
    assert N_V_16[-1] == Fraction(1, 25)
    assert len(N_V_8) == 8
    assert set(N_V_8) < set(N_V_16)
    assert N_V_8[0] == 1


def test_decoding_is_building():
    space = dop_space(4, HALF, CLS, kv="stays")
    assert space.decode((3, 1, 0)) == builders.dop(4, 3, 1, "1/2", CLS, kv="stays")
    assert depth_space(4, HALF, CLS).decode((1, 4, 2, 0)) == builders.depth(4, 1, 4, 2, "1/2", CLS)
    assert tokens_space(4, HALF, CLS).decode((1,)) == builders.tokens(4, 1, CLS)


def test_stages_decode_to_the_schedules_of_published_methods():
    space = stages_space(4, SHARES, CLS)  # shares 0, 1/4, 1/2, 1
    assert space.decode((2, 2, 4, 3)) == builders.stages(4, {0: 1, 2: "1/2"}, CLS)  # FastV
    assert space.decode((1, 2, 3, 1)) == builders.stages(4, {0: 1, 1: "1/2", 3: "1/4"}, CLS)
    withdrawn = space.decode((2, 0, 4, 3))
    assert withdrawn.canonical(576) == builders.vtw(4, 2).canonical(576)
    reduced = space.decode((0, 1, 4, 3))
    assert reduced.canonical(576) == builders.tokens(4, "1/4", CLS).canonical(576)


def test_stages_hold_in_any_order_and_those_that_prune_nothing_do_not_count():
    space = stages_space(4, SHARES, CLS)
    listed = space.index_of((1, 2, 3, 1))
    assert space.points[listed].tolist() == [1, 2, 3, 1]
    assert space.index_of((3, 1, 1, 2)) == listed
    one = space.index_of((2, 1, 4, 3))
    # Begins after the last layer, keeps all tokens, keeps more than an earlier stage, begins with
    # a stage that keeps fewer.
    for row in ((4, 0, 2, 1), (0, 3, 2, 1), (2, 1, 3, 2), (2, 2, 2, 1)):
        assert space.index_of(row) == one


def test_a_point_of_another_number_of_stages_is_an_error():
    with pytest.raises(ValueError, match=naming("2 stages", 4)):
        stages_space(4, SHARES).decode((1, 1))


def test_only_stages_have_no_parameter_that_prunes_alone():
    # Recipes are chosen without any divergence.
    for name in SPACES.keys() - {"recipes"}:
        space = SPACES[name].from_settings(SpaceSettings(num_layers=3, n_v=tuple(SHARES)))
        unpruned = [len(p.values) - 1 for p in space.parameters]
        rows = [[*unpruned[:k], 0, *unpruned[k + 1 :]] for k, top in enumerate(unpruned) if top]
        original = space.index_of(unpruned)
        prunes = all(space.index_of(row) != original for row in rows)
        assert space.parameters_act_alone == prunes == (name != "stages")


def test_spaces_by_name():
    settings = SpaceSettings(num_layers=3, n_v=tuple(HALF))
    named = {name: factory.from_settings(settings) for name, factory in SPACES.items()}
    assert all(space.name == name for name, space in named.items())
    assert set(named) == {
        "tokens", "dop", "depth", "stages", "layers", "operations", "shares", "recipes",
    }  # fmt: skip
    names = [parameter.name for parameter in named["depth"].parameters]
    assert names == ["d_q", "d_kv", "d_mlp", "n_v"]


def test_points_have_as_many_values_as_parameters():
    with pytest.raises(ValueError, match=r"shape|broadcast|zip"):
        dop_space(4, HALF).decode((3, 1))
