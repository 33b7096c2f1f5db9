"""Models that a quantiser has made smaller: 8-bit weights of torchao, computed with in float32."""

import pytest
from transformers import LlavaForConditionalGeneration, TorchAoConfig

from opsearch.measure.engine import Engine
from opsearch.measure.store import Store
from opsearch.runtime.load import fingerprint, load_model
from tests import reference, tiny
from tests.measure import families
from tests.runtime.judge import TOLERANCE, deviation, inside, rank, samples
from tests.runtime.policies import LAYERS, POLICIES

quantization = pytest.importorskip("torchao.quantization", reason="make test-lmms has torchao")

pytestmark = pytest.mark.usefixtures("no_grad")

SOME = ("dop, kv leaves", "dop, kv stays", "random counts 0", "two at once")
STEPS = 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint of a LLaVA's rounded weights."""
    stock, rounded = (tmp_path_factory.mktemp(name) for name in ("stock", "rounded"))
    tiny.llava(LAYERS).save_pretrained(stock)
    config = TorchAoConfig(quantization.Int8WeightOnlyConfig())
    model = LlavaForConditionalGeneration.from_pretrained(stock, quantization_config=config)
    model.save_pretrained(rounded)
    return rounded


@pytest.fixture(scope="module")
def model(folder):
    model = load_model(str(folder))
    model.generation_config.suppress_tokens = [tiny.IMAGE]
    model.generation_config.eos_token_id = None
    assert type(model.model.language_model.layers[1].mlp.up_proj.weight).__name__ == "Int8Tensor"
    return model


@pytest.mark.parametrize("label", SOME)
def test_rounded_weights_are_pruned_as_others_are(model, label):
    inputs, policy = tiny.prompts([[3, 4], [1, 6]]), POLICIES[label]
    assert deviation(model, inputs, policy) <= TOLERANCE
    with policy.apply(model):
        said = model.generate(**inputs, max_new_tokens=STEPS, do_sample=False)[:, -STEPS:]
    for row, sample in enumerate(samples(model, inputs)):
        start = sample.embeds, rank(sample, policy), policy.resolve(sample.n_visual).tolist()
        rankers = inside(sample, policy)
        wanted, _ = reference.greedy(
            model, *start, sample.positions, STEPS, never=[tiny.IMAGE], inside=rankers
        )
        assert said[row].tolist() == wanted


def test_they_are_measured_as_one_model(model, folder, tmp_path):
    """A second loading finds what the first has measured; the exact weights do not."""
    known = fingerprint(model)
    assert fingerprint(load_model(str(folder))) == known != fingerprint(tiny.llava(LAYERS))
    with Store(tmp_path / "m.db", {}) as store:
        found = Engine(model, store).measure([POLICIES["tokens, cls"]], [families.sample([3, 4])])
    assert found > 0
