"""The engine ranks as `Policy.apply` does, for every ranker and answer length."""

import numpy as np
import pytest
import torch
from transformers import CLIPModel

from opsearch.errors import RunFolderError
from opsearch.measure.engine import Engine
from opsearch.measure.storage.store import Store
from opsearch.models import clip
from opsearch.models.loading import load_weights
from opsearch.policy import builders
from opsearch.policy.ranker import RankerSpec
from opsearch.rankers import RANKERS
from tests.measure import demo, families
from tests.measure.answered import alone
from tests.support.families import FAMILIES, folder
from tests.support.families.clip import saved_clip
from tests.support.messages import refuses

SPECS = [
    *(RankerSpec(name) for name in RANKERS if name != "evs"),  # the model has no videos
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


def test_a_clip_model_that_changed_is_refused(tmp_path):
    llava, path = FAMILIES["llava"], tmp_path / "m.db"
    folder.save(llava, tmp_path / "model")
    spec = RankerSpec("cdpruner", (("clip", saved_clip(tmp_path / "clip")),))
    policies, prompt = [builders.tokens(3, "1/3", spec)], families.sample([3, 4])

    def measured():
        clip._clip.cache_clear()  # as in another process
        with Store(path, {}) as store:
            engine = Engine(load_weights(str(tmp_path / "model")), store)
            return engine.measure(policies, [prompt]), engine.measured

    first, count = measured()
    assert count == 1
    again, count = measured()
    assert (again.tolist(), count) == (first.tolist(), 0)
    other = CLIPModel.from_pretrained(tmp_path / "clip")
    with torch.no_grad():
        other.text_projection.weight[3, 5] += 1
    other.save_pretrained(tmp_path / "clip")
    with refuses(RunFolderError, path, tmp_path / "clip", "--out"):
        measured()
