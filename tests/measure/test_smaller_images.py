"""Policies on smaller images, against the original at full size."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from opsearch.measure.engine import Engine
from opsearch.measure.relaxed.gradient import RelaxedDivergence
from opsearch.measure.sweep.originals import Originals
from opsearch.models.families import family_for
from opsearch.models.supported import check_supported
from opsearch.policy.builders import identity
from opsearch.rankers import make_ranker
from tests.measure.test_engine_families import encoded
from tests.models.judge import reference_logits
from tests.models.judge import samples as judged
from tests.models.policies import LAYERS, with_rankers_of
from tests.support import tiny
from tests.support.families import FAMILIES
from tests.support.families.prompt import prompts

TOLERANCE = 5e-6
LABELS = ["tokens, uniform", "dop, kv leaves", "dop, kv stays", "stages", "random counts 0"]


@pytest.fixture(params=["qwen2_5_vl", "qwen3_vl", "internvl"])
def name(request):
    return request.param


@pytest.fixture
def model(name):
    with torch.inference_mode(False):
        made = FAMILIES[name].model(LAYERS)
    made.generation_config.suppress_tokens = [tiny.IMAGE, tiny.VIDEO]
    return made


def smaller(model, name, small, full):
    """Return a prompt with the picture of one seed, whose original has that of another."""
    pair = [encoded(model, prompts(FAMILIES[name], [[3, 4]], seed)) for seed in (small, full)]
    return replace(pair[0], digest=f"{small} of {full}", original=pair[1])


@pytest.fixture
def samples(model, name):
    """Two small prompts of equal shape whose originals differ, another one, and one without."""
    first, second = smaller(model, name, 1, 0), smaller(model, name, 5, 3)
    assert first.shape == second.shape
    return [first, second, smaller(model, name, 2, 1), second.original]


def forced(sample, answer):
    """Return the inputs of a sample with the first tokens of an answer behind the prompt."""
    ids, inputs = sample.inputs["input_ids"], dict(sample.inputs)
    shape = ids.shape
    for key, value in sample.inputs.items():
        if value.shape == shape:
            more = {"input_ids": answer[None], "attention_mask": torch.ones(1, len(answer))}
            added = more.get(key, torch.zeros(1, len(answer))).to(value.dtype)
            inputs[key] = torch.cat([value, added], 1)
    return inputs


@torch.no_grad()
def wanted(model, policy, sample, positions):
    """Return the KL of the masked model on a sample from the stock model on its original."""
    full = sample.original or sample
    prompt = full.inputs["input_ids"].shape[1]
    answer = model.generate(**full.inputs, max_new_tokens=positions, do_sample=False)[0, prompt:]
    count = len(answer)
    stock = model(**forced(full, answer[:-1])).logits[0, -count:]
    (row,) = judged(model, forced(sample, answer[:-1]))
    p, q = (
        logits.double().log_softmax(-1)
        for logits in (stock, reference_logits(model, row, policy)[-count:])
    )
    return float((p.exp() * (p - q)).sum(-1).mean())


@pytest.mark.usefixtures("no_grad")
@pytest.mark.parametrize("positions", [1, 3])
def test_every_policy_diverges_from_the_original_at_full_size(
    name, model, samples, positions, store
):
    policies = [with_rankers_of(family_for(name))[label] for label in LABELS]
    policies.append(identity(LAYERS))
    found = Engine(model, store, positions).measure(policies, samples)
    expected = [[wanted(model, policy, s, positions) for s in samples] for policy in policies]
    assert np.abs(found - expected).max() <= TOLERANCE
    # To prune nothing is a divergence too, but of the sample at full size.
    assert found[-1, -1] == 0
    assert np.min(np.array(expected)[:, :-1]) > 10 * TOLERANCE
    again = Engine(model, store, positions)
    assert np.array_equal(again.measure(policies, samples), found)
    assert again.measured == 0


@pytest.mark.parametrize("positions", [1, 3])
def test_a_descent_has_the_same_divergence(model, samples, positions):
    ranker = make_ranker(with_rankers_of(family_for("qwen2_5_vl"))["tokens, random"].rankers[0][1])
    gradient = RelaxedDivergence(Originals(model, positions), samples, ranker, 10**9)
    found, _ = gradient(np.ones((LAYERS, 3)), 1e-6, range(len(samples)))
    expected = [wanted(model, identity(LAYERS), sample, positions) for sample in samples]
    assert np.abs(found - expected).max() <= TOLERANCE


def test_the_original_runs_once_at_full_size_for_all_settings(model, name):
    sizes = []
    decoder = model.get_submodule(check_supported(model).decoder)
    hook = decoder.register_forward_hook(lambda module, args, out: sizes.append(len(out[0])))
    first = smaller(model, name, 1, 0)
    second = replace(smaller(model, name, 2, 0), original=first.original)
    found = Originals(model, 1)
    targets = [found.of([sample]).logits for sample in (first, second, first)]
    hook.remove()
    assert sum(sizes) == 3  # once at full size, once at each setting
    assert torch.equal(targets[0], targets[1])
    (stock,) = model(**first.original.inputs, logits_to_keep=1).logits
    torch.testing.assert_close(targets[0][0], stock)


@pytest.mark.usefixtures("no_grad")
def test_noise_is_that_of_full_size(store):
    """Not the divergence of smaller images, which would make all policies ties."""
    with torch.inference_mode(False):
        model = FAMILIES["qwen2_5_vl"].model(LAYERS)
    sample = smaller(model, "qwen2_5_vl", 1, 0)
    engine = Engine(model.bfloat16(), store)
    floor = engine.noise_floor([sample])
    assert floor == engine.noise_floor([sample.original])
    assert floor < engine.measure([identity(LAYERS)], [sample]).mean() / 10
