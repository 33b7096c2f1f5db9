"""The engine ranks as `Policy.apply` does, for every ranker and answer length."""

import numpy as np
import pytest

from opsearch.measure.engine import Engine
from opsearch.measure.storage.store import Store
from opsearch.policy import builders
from opsearch.policy.ranker import RankerSpec
from opsearch.rankers import RANKERS
from tests.measure import demo
from tests.measure.answered import alone

SPECS = [
    *(RankerSpec(name) for name in RANKERS),
    RankerSpec("vispruner", (("important", 0.2),)),
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_every_ranker_gives_the_divergence_of_the_applied_policy(spec, tmp_path):
    """Samples of one image share a pass; others have two images."""
    samples = [*demo.samples(3), *demo.two_pictures()]
    policies = [
        builders.tokens(demo.LAYERS, "3/10", spec),
        builders.dop(demo.LAYERS, 8, 4, "1/2", spec, kv="stays"),
    ]
    with Store(tmp_path / "m.db", {}) as store:
        found = Engine(demo.model(), store).measure(policies, samples)
    model = demo.model()
    wanted = np.array([[alone(model, policy, each) for each in samples] for policy in policies])
    assert (np.abs(found - wanted) <= 2e-5 * np.maximum(1, wanted)).all()


def test_rankings_are_kept_apart_in_the_store(tmp_path):
    """Rankers that differ only in a parameter are kept apart too."""
    policies = [builders.tokens(demo.LAYERS, "3/10", spec) for spec in SPECS]
    samples = demo.samples(3)
    with Store(tmp_path / "m.db", {}) as store:
        one_by_one = [Engine(demo.model(), store).measure([p], samples)[0] for p in policies]
        engine = Engine(demo.model(), store)
        assert np.array_equal(engine.measure(policies, samples), np.stack(one_by_one))
        assert engine.measured == 0
    # On one image visionzip orders as cls does; all other rankings differ.
    assert len({row.tobytes() for row in one_by_one}) == len(SPECS) - 1


def test_a_ranking_by_embeddings_on_longer_answers(tmp_path):
    samples = demo.samples(3)
    policy = builders.tokens(demo.LAYERS, "3/10", RankerSpec("divprune"))
    with Store(tmp_path / "m.db", {}) as store:
        found = Engine(demo.model(), store, positions=3).measure([policy], samples)[0]
    wanted = [demo.reference_kl(sample, policy, 3) for sample in samples]
    assert np.abs(found - wanted).max() <= 2e-5 * max(1, *wanted)
