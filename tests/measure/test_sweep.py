"""A sweep over many policies gives the value of each alone, for every layout and decoder."""

from fractions import Fraction
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from opsearch.measure.engine import Engine
from opsearch.measure.storage.store import Store
from opsearch.policy import builders
from opsearch.policy.ranker import RankerSpec
from opsearch.problem.spaces import SPACES
from opsearch.problem.spaces.base import SpaceSettings
from tests.measure import families
from tests.measure.answered import alone
from tests.measure.families import CLS, DECODERS, LAYERS, LAYOUTS, of_counts

pytestmark = pytest.mark.usefixtures("no_grad")

TOLERANCE = 5e-6
RANDOM, UNIFORM = RankerSpec("random"), RankerSpec("uniform")
SPACE_OPTIONS = {
    "tokens": {},
    "dop": {"kv": "leaves"},
    "dop, kv stays": {"kv": "stays"},
    "depth": {},
}


def measured(model, policies, samples, path, positions=1, **options):
    with Store(path / "measurements.db", {}) as store:
        return Engine(model, store, positions, **options).measure(policies, samples)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", SPACE_OPTIONS)
def test_whole_spaces(name, attention, tmp_path):
    model = families.model("llama", attention)
    settings = SpaceSettings(
        num_layers=LAYERS, n_v=(Fraction(1, 2),), ranker=CLS, **SPACE_OPTIONS[name]
    )
    space = SPACES[name.split(",")[0]].from_settings(settings)
    policies = [space.decode(point) for point in space.points.tolist()]
    samples = [families.sample(LAYOUTS[0]), families.sample(LAYOUTS[1])]
    found = measured(model, policies, samples, tmp_path)
    wanted = [[alone(model, policy, sample) for sample in samples] for policy in policies]
    assert np.abs(found - wanted).max() <= TOLERANCE
    # Guard against a vacuous comparison: policies differ from each other and the original.
    assert len(np.unique(np.round(wanted, 6))) > len(policies) / 2


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_every_decoder(decoder, attention, tmp_path):
    model = families.model(decoder, attention)
    counts = np.random.default_rng(0).integers(0, 10, (6, LAYERS, 3))
    policies = [of_counts(each) for each in counts]
    samples = [families.sample(runs) for runs in LAYOUTS]
    found = measured(model, policies, samples, tmp_path)
    wanted = [[alone(model, policy, sample) for sample in samples] for policy in policies]
    assert np.abs(found - wanted).max() <= TOLERANCE


@cache
def drawn_samples():
    return [families.sample(runs, seed) for runs in LAYOUTS for seed in (0, 1)]


@given(
    counts=st.lists(
        st.lists(
            st.lists(st.sampled_from([0, 2, 5, 9, 18]), min_size=3, max_size=3),
            min_size=LAYERS,
            max_size=LAYERS,
        ),
        min_size=1,
        max_size=4,
    ),
    rankers=st.lists(st.sampled_from([CLS, RANDOM]), min_size=4, max_size=4),
    chosen=st.lists(st.integers(0, 2 * len(LAYOUTS) - 1), min_size=1, max_size=3, unique=True),
    attention=st.sampled_from(["sdpa", "eager"]),
    positions=st.sampled_from([1, 3]),
)
@settings(max_examples=60)
def test_random_counts(tmp_path_factory, counts, rankers, chosen, attention, positions):
    model = families.model("llama", attention)
    policies = [of_counts(c, ranker) for c, ranker in zip(counts, rankers, strict=False)]
    samples = [drawn_samples()[i] for i in chosen]
    found = measured(model, policies, samples, tmp_path_factory.mktemp("run"), positions)
    wanted = [[alone(model, p, sample, positions) for sample in samples] for p in policies]
    assert np.abs(found - wanted).max() <= TOLERANCE


def test_rankers_of_one_call_do_not_mix(tmp_path):
    """The uniform ranker ranks again for every number of tokens."""
    model, samples = families.model(), [families.sample(runs) for runs in LAYOUTS]
    policies = [
        builders.tokens(LAYERS, share, ranker)
        for ranker in (CLS, RANDOM, UNIFORM)
        for share in ("1/3", "2/3")
    ]
    found = measured(model, [*policies, builders.vtw(LAYERS, 2)], samples, tmp_path)
    wanted = [[alone(model, policy, sample) for sample in samples] for policy in policies]
    assert np.abs(found[:-1] - wanted).max() <= TOLERANCE


def test_in_double_precision_nothing_is_left_of_the_difference(tmp_path):
    """The remaining difference in single precision is therefore rounding."""
    model = families.model("llama", "sdpa", torch.float64)
    counts = np.random.default_rng(1).integers(0, 10, (20, LAYERS, 3))
    policies, sample = [of_counts(each) for each in counts], families.sample([2, 3, 4])
    found = measured(model, policies, [sample], tmp_path)[:, 0]
    wanted = [alone(model, policy, sample) for policy in policies]
    # The divergence itself is computed in single precision.
    assert np.abs(found - wanted).max() <= 1e-6
