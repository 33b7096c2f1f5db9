"""Quantised models: weights of few bits, computed in float32."""

import json

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from opsearch.errors import ModelError
from opsearch.measure.engine import Engine
from opsearch.measure.storage.store import Store
from opsearch.models.fingerprint import fingerprint
from opsearch.models.loading import load_weights
from tests.measure import families
from tests.models.judge import TOLERANCE, deviation, inside, rank, samples
from tests.models.policies import LAYERS, POLICIES
from tests.models.quantised import FORMATS, compressed
from tests.support import reference, tiny
from tests.support.messages import refuses

pytestmark = pytest.mark.usefixtures("no_grad")

SOME = ("dop, kv leaves", "dop, kv stays", "random counts 0", "two at once")
STEPS = 4


@pytest.fixture(scope="module", params=FORMATS)
def folder(request, tmp_path_factory):
    """Return a checkpoint of a LLaVA with quantised weights."""
    with torch.no_grad():
        return FORMATS[request.param](tmp_path_factory.mktemp("rounded"))


@pytest.fixture(scope="module")
def model(folder):
    model = load_weights(str(folder))
    model.generation_config.suppress_tokens = [tiny.IMAGE]
    model.generation_config.eos_token_id = None
    linear = model.model.language_model.layers[1].mlp.up_proj
    assert type(linear.weight).__name__ == "Int8Tensor" or hasattr(linear, "weight_scale")
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
    """A second load has the same fingerprint; the exact weights have another."""
    known = fingerprint(model)
    assert fingerprint(load_weights(str(folder))) == known != fingerprint(tiny.llava(LAYERS))
    with Store(tmp_path / "m.db", {}) as store:
        found = Engine(model, store).measure([POLICIES["tokens, cls"]], [families.sample([3, 4])])
    assert found > 0


def test_a_model_that_has_not_run_yet_is_pruned(model, folder):
    """Weights that are unpacked by the first forward work too."""
    inputs, policy = tiny.prompts([[3, 4], [1, 6]]), POLICIES["two at once"]
    fresh = LlavaForConditionalGeneration.from_pretrained(folder).eval()
    known = fingerprint(model)
    said = []
    for each in (fresh, model):
        with policy.apply(each):
            said.append(each.generate(**inputs, max_new_tokens=STEPS, do_sample=False).tolist())
    assert said[0] == said[1]
    assert fingerprint(fresh) == known


def test_rounded_keys_and_values_are_refused(tmp_path):
    scheme = {"num_bits": 8, "type": "float", "strategy": "tensor", "symmetric": True}
    model = load_weights(str(compressed("W8A16", kv_cache_scheme=scheme)(tmp_path)))
    with (
        refuses(ModelError, "keys and values", "kv_cache_scheme", "null"),
        POLICIES["two at once"].apply(model),
    ):
        pass


def test_a_missing_quantiser_is_named(tmp_path):
    tiny.llava(LAYERS).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    quantised = {"quant_method": "gptq", "bits": 4}
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": quantised}))
    with refuses(ModelError, tmp_path, "optimum", "install"):
        load_weights(str(tmp_path))
