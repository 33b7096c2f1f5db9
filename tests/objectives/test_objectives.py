"""Additive and joint objectives hold measured values, and agree where the proxy is exact."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from opsearch.errors import OpsearchError
from opsearch.measure.engine import Engine
from opsearch.measure.storage.store import Store
from opsearch.objectives import OBJECTIVES
from opsearch.objectives.additive import Additive
from opsearch.objectives.joint import Joint
from opsearch.objectives.pairwise import MeasuredPairs
from opsearch.policy import builders
from opsearch.policy.ranker import RankerSpec
from opsearch.problem.objective import KL_QUANTUM
from opsearch.problem.spaces.depth import depth_space, dop_space, tokens_space
from opsearch.problem.spaces.recipes import RecipeSpace
from tests.measure.demo import LAYERS, model, samples
from tests.support.messages import naming

CLS = RankerSpec("cls")
N_V = (Fraction(1, 2), Fraction(1, 5))
SPACE = dop_space(LAYERS, N_V, CLS)


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    with Store(tmp_path_factory.mktemp("objectives") / "m.db", {}) as store:
        yield Engine(model(), store)


@pytest.fixture(scope="module")
def measure(engine):
    return lambda policies: engine.measure(policies, samples(4))


@pytest.fixture(scope="module")
def additive(measure):
    return Additive().make(SPACE, measure, np.ones(len(SPACE.points), bool))


@pytest.fixture(scope="module")
def cheap():
    """Return a mask of the points with small depths, as a budget would leave."""
    return (SPACE.points[:, 0] < 5) & (SPACE.points[:, 1] < 7)


@pytest.fixture(scope="module")
def joint(measure, cheap):
    return Joint().make(SPACE, measure, cheap)


def test_the_terms_are_the_divergences_of_each_parameter_alone(additive, measure):
    d_attn, d_mlp, n_v = additive.terms
    alone = [
        [builders.dop(LAYERS, d, LAYERS, 1, CLS) for d in range(LAYERS + 1)],
        [builders.dop(LAYERS, LAYERS, d, 1, CLS) for d in range(LAYERS + 1)],
        [builders.tokens(LAYERS, v, CLS) for v in ("1/5", "1/2", "1")],
    ]
    for term, policies in zip((d_attn, d_mlp, n_v), alone, strict=True):
        measured = measure(policies).mean(axis=1)
        assert np.abs(term - measured).max() <= KL_QUANTUM / 2 + 1e-12
        assert np.abs(term / KL_QUANTUM - np.rint(term / KL_QUANTUM)).max() < 1e-6
        assert term[-1] == 0
        assert term[0] > 0.01
    assert (additive.form, additive.unit, additive.quantum) == ("separable", "nats", KL_QUANTUM)


def test_the_value_of_a_point_is_the_sum_of_its_terms(additive):
    index = SPACE.index_of([5, 2, 0])
    attn, mlp, n_v = additive.terms
    assert additive.value(index) == pytest.approx(attn[5] + mlp[2] + n_v[0], abs=1e-12)


def test_the_proxy_is_exact_where_one_parameter_is_pruned(additive, measure):
    """All other parameters keep everything, or the MLP ends with the attention anyway."""
    last = len(N_V)
    points = [[d, LAYERS, last] for d in range(LAYERS + 1)]
    points += [[LAYERS, LAYERS, v] for v in range(last)]
    wanted = np.zeros(len(SPACE.points), bool)
    rows = [SPACE.index_of(point) for point in points]
    wanted[rows] = True
    joint = Joint().make(SPACE, measure, wanted)
    assert np.array_equal(additive.values[rows], joint.values[rows])


def test_the_proxy_is_not_exact_elsewhere(additive, joint, cheap):
    assert np.abs(additive.values - joint.values)[cheap].max() > 0.1


def test_the_joint_table_is_the_measured_mean_and_nothing_outside(joint, measure, cheap):
    assert np.array_equal(np.isnan(joint.values), ~cheap)
    policies = [SPACE.decode(point) for point in SPACE.points[cheap].tolist()]
    measured = measure(policies).mean(axis=1)
    assert np.abs(joint.values[cheap] - measured).max() <= KL_QUANTUM / 2 + 1e-12
    assert (joint.form, joint.unit, joint.quantum) == ("table", "nats", KL_QUANTUM)


def test_planning_lists_what_the_proxy_measures():
    sizes = [len(parameter.values) for parameter in SPACE.parameters]
    assert len(Additive().policies(SPACE)) == sum(sizes)
    assert len(Additive(points=3).policies(SPACE)) == 9


def test_a_lazy_joint_measures_only_what_is_asked(tmp_path, joint, cheap):
    with Store(tmp_path / "lazy.db", {}) as store:
        engine = Engine(model(), store)
        lazy = Joint(lazy=True).make(SPACE, lambda p: engine.measure(p, samples(4)), cheap)
        assert (lazy.form, engine.measured) == ("blackbox", 0)
        first, *_, last = np.flatnonzero(cheap).tolist()
        values = [lazy.value(first), lazy.value(last), lazy.value(first)]
        assert engine.measured == 2 * 4
    assert values == pytest.approx([joint.values[i] for i in (first, last, first)], abs=1e-5)


@pytest.mark.parametrize("space", [tokens_space(LAYERS, N_V, CLS), depth_space(LAYERS, N_V, CLS)])
def test_additive_fits_every_space(space, measure):
    objective = Additive().make(space, measure, np.ones(len(space.points), bool))
    assert [len(term) for term in objective.terms] == [len(p.values) for p in space.parameters]
    everything = space.index_of([len(p.values) - 1 for p in space.parameters])
    assert objective.value(everything) == 0
    assert np.isfinite(objective.values).all()


def interpolated(values, points):
    """Return the term of an additive objective over `values`, `points` of them measured."""
    shares = [Fraction(i + 1, len(values)) for i in range(len(values))]
    space = tokens_space(2, shares)
    by_share = dict(zip(shares, values, strict=True))

    def measure(policies):
        return np.array([[by_share[policy.counts[0][0]]] for policy in policies])

    return Additive(points).make(space, measure, np.ones(len(values), bool)).terms[0]


falling = st.lists(st.floats(0, 20), min_size=3, max_size=16).map(lambda v: sorted(v, reverse=True))


@given(falling, st.integers(2, 20))
def test_interpolation_hits_its_nodes_and_is_monotone(values, points):
    term = interpolated(values, points)
    nodes = sorted({round(i) for i in np.linspace(0, len(values) - 1, min(points, len(values)))})
    assert np.abs(term[nodes] - np.array(values)[nodes]).max() <= KL_QUANTUM
    assert (np.diff(term) <= KL_QUANTUM).all()


@given(st.lists(st.floats(0, 20), min_size=3, max_size=16), st.integers(2, 16))
def test_interpolation_never_leaves_the_range_of_its_nodes(values, points):
    term = interpolated(values, points)
    assert term.min() >= 0
    assert term.max() <= max(values) + KL_QUANTUM


def test_every_objective_says_its_name():
    assert all(factory().name == name for name, factory in OBJECTIVES.items())
    assert set(OBJECTIVES) == {"additive", "attention", "joint", "pairwise", "taylor"}


def test_a_space_of_one_parameter_has_no_pairs():
    space = tokens_space(LAYERS, N_V, CLS)

    def measured(policies):
        assert policies
        return np.full((len(policies), 2), 0.5)

    made = MeasuredPairs().make(space, measured, np.ones(len(space.points), bool))
    assert not made.pairs
    assert made.value(0) == 0.5


def test_recipes_are_refused_by_every_proxy_with_their_own_objective():
    space = RecipeSpace(LAYERS)
    for name in ("additive", "pairwise", "joint"):
        with pytest.raises(OpsearchError, match=naming(repr(name), "--objective attention")):
            OBJECTIVES[name]().require(space)


def test_pairs_can_be_drawn_and_are_the_same_for_the_same_seed():
    space = dop_space(LAYERS)
    every = MeasuredPairs("all").choices(space)
    drawn = MeasuredPairs(20, seed=3).choices(space)
    assert len(set(drawn)) == 20
    assert set(drawn) < set(every)
    assert drawn == MeasuredPairs(20, seed=3).choices(space)
    assert drawn != MeasuredPairs(20, seed=4).choices(space)
    assert MeasuredPairs(1000000).choices(space) == every


def test_pairs_are_a_known_word_or_a_number():
    with pytest.raises(OpsearchError, match=naming("'500'", "adjacent", "number")):
        MeasuredPairs("500")
