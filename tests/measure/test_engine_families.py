"""In every family the engine measures what applying a policy to a sample alone gives."""

import numpy as np
import pytest
import torch

from opsearch.measure.engine import Engine
from opsearch.measure.samples import Sample, batch_inputs
from opsearch.measure.store import Store
from opsearch.runtime.adapters import ADAPTERS
from opsearch.tasks.item import Item
from tests import tiny
from tests.families import FAMILIES
from tests.families.prompt import prompts
from tests.flash import FLASH
from tests.measure.answered import alone
from tests.runtime.judge import samples as judged
from tests.runtime.policies import LAYERS, with_rankers_of

pytestmark = pytest.mark.usefixtures("no_grad")

TOLERANCE = 5e-6
LABELS = ["tokens, uniform", "dop, kv leaves", "dop, kv stays", "stages", "random counts 0"]
INSIDE = [
    "fastv, of which some are updated",
    "fitprune",
    "two at once",
    "fastv, none of which are updated",
]


@pytest.fixture(params=FAMILIES)
def name(request):
    return request.param


@pytest.fixture
def attention():
    return "sdpa"


@pytest.fixture
def model(name, attention, flash_attn):
    made = FAMILIES[name].model(LAYERS, attention)
    made.generation_config.suppress_tokens = [tiny.IMAGE, tiny.VIDEO]
    return made


@pytest.fixture
def samples(name, model):
    """The first and the third have equally many tokens, but not always the same picture size."""
    return [encoded(model, prompts(FAMILIES[name], [[3, 4]], seed)) for seed in range(3)]


def encoded(model, inputs):
    (row,) = judged(model, inputs)
    digest = str(inputs["pixel_values"].sum())
    return Sample(Item(digest, "", (), ()), digest, inputs, row.n_visual, int((~row.visual).sum()))


@pytest.mark.parametrize(("positions", "attention"), [(1, "sdpa"), (3, "sdpa"), (3, FLASH)])
def test_every_policy_has_the_divergence_of_applying_it(name, model, samples, positions, tmp_path):
    policies = [with_rankers_of(ADAPTERS[name])[label] for label in (*LABELS, *INSIDE)]
    with Store(tmp_path / "measurements.db", {}) as store:
        found = Engine(model, store, positions).measure(policies, samples)
    wanted = [[alone(model, policy, each, positions) for each in samples] for policy in policies]
    assert np.abs(found - wanted).max() <= TOLERANCE
    # The comparison means something: every policy changes the answer to every sample.
    assert np.min(wanted) > 10 * TOLERANCE


def test_samples_of_one_shape_stack(model, samples):
    """Whatever the number of tiles or the shape of the grid of their pictures."""
    first, _, third = samples
    assert first.shape == third.shape
    together = model(**batch_inputs([first, third], "cpu")).logits
    for logits, sample in zip(together, (first, third), strict=True):
        torch.testing.assert_close(logits, model(**sample.inputs).logits[0], rtol=0, atol=1e-5)
