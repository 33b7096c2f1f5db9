"""Models on another device than the host's: the same answers, and the host hardly waits for it."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

from opsearch import RunConfig
from opsearch.commands.run import run
from opsearch.measure.engine import Engine
from opsearch.measure.storage.store import Store
from opsearch.models.families import family_for
from opsearch.models.supported import check_supported
from opsearch.policy import builders
from opsearch.policy.ranker import RankerSpec
from opsearch.problem.spaces.depth import dop_space
from opsearch.rankers.upload import upload
from tests.measure.families import sample
from tests.models.policies import LAYERS, MIXED, with_rankers_of
from tests.models.test_family_rankers import usable
from tests.support import tiny
from tests.support.families import EACH, FAMILIES, built, is_causal
from tests.support.families.clip import saved_clip
from tests.support.families.prompt import prompts
from tests.support.flash import FLASH
from tests.support.pretend import waits

SOME = ["tokens, uniform", "dop, kv stays", "stages, growing", "random counts 1", "two at once"]
devices = pytest.mark.parametrize(
    "device", ["pretend", pytest.param("cuda", marks=pytest.mark.gpu)]
)


@pytest.fixture(autouse=True)
def without_autograd():
    """Not inference mode, in which operations reach a device before they are taken apart."""
    with torch.no_grad():
        yield


# The pretended device runs kernels of the CPU, where torch counts the tokens of experts as floats.
without_experts = pytest.mark.parametrize(
    "name", [each for each in EACH if each.id != "qwen3_vl_moe"]
)


def moved(inputs, device):
    return {name: value.to(device) for name, value in inputs.items()}


def reducers(family):
    """Policies of rankers that read pictures, where the family has what they need."""
    names = [ranker for name, ranker in usable() if name == family]
    return [builders.tokens(LAYERS, "1/3", RankerSpec(name)) for name in names]


@devices
@without_experts
def test_answers_are_those_of_the_host(name, device):
    model, inputs = built(name, LAYERS), prompts(FAMILIES[name], MIXED, seed=2)
    away, there = deepcopy(model).to(device), moved(inputs, device)
    policies = with_rankers_of(family_for(name))
    for policy in (*map(policies.get, SOME), *reducers(name)):
        with policy.apply(model):
            wanted = model(**inputs).logits
        with policy.apply(away):
            found = away(**there).logits
        assert found.device.type == device
        torch.testing.assert_close(found.cpu(), wanted, rtol=0, atol=1e-4, msg=str(policy.rankers))


@devices
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}], ids=["greedy", "beams"])
@without_experts
def test_tokens_are_those_of_the_host(name, options, device):
    model, inputs = built(name, LAYERS), prompts(FAMILIES[name], [[3, 4], [1, 6]], seed=2)
    away, there = deepcopy(model).to(device), moved(inputs, device)
    options = {"max_new_tokens": 4, "do_sample": False, **options}
    policy = with_rankers_of(family_for(name))["stages"]
    with policy.apply(model):
        wanted = model.generate(**inputs, **options)
    with policy.apply(away):
        found = away.generate(**there, **options)
    assert torch.equal(found.cpu(), wanted)


@without_experts
@pytest.mark.parametrize("attention", ["sdpa", FLASH])
def test_a_prefill_waits_once_more_at_most_whatever_it_prunes(name, attention, flash_attn):
    if attention == FLASH and not is_causal(name):
        pytest.skip("a policy runs with FlashAttention where attention is causal")
    model = deepcopy(built(name, LAYERS, attention)).to("pretend")
    inputs = moved(prompts(FAMILIES[name], [[3, 4], [1, 6]], seed=2), "pretend")
    with waits() as found:
        model(**inputs, use_cache=False)
    stock, policies = len(found), with_rankers_of(family_for(name))
    for policy in (*map(policies.get, SOME), *reducers(name)):
        with policy.apply(model), waits() as found:
            model(**inputs)
        assert "tolist" in found, "how many visual tokens each sample has"
        # What the tower gave for images of any size is put in order by their sizes.
        sized = family_for(name).grid is not None or name == "mistral3"
        by_sizes = sized and any(
            spec.name in ("received", "mmtok", "evs") for _, spec in policy.rankers
        )
        assert len(found) <= stock + 1 + by_sizes, policy.rankers


@pytest.mark.parametrize("name", ["llava", "llava_next"])
def test_to_read_the_question_for_clip_takes_one_wait_more(name, tmp_path):
    """However many questions there are, and however long; once CLIP is loaded."""
    model, counts = deepcopy(built(name, LAYERS)).to("pretend"), []
    clip = saved_clip(tmp_path)
    model.config.name_or_path = clip  # whose tokenizer it shares
    for ranker in (RankerSpec("cls"), RankerSpec("cdpruner", (("clip", clip),))):
        policy = builders.tokens(LAYERS, "1/3", ranker)
        for layout in ([[3, 4]], [[3, 4]], [[3, 4], [1, 20]]):
            inputs = moved(prompts(FAMILIES[name], layout, seed=2), "pretend")
            with policy.apply(model), waits() as found:
                model(**inputs)
            counts.append(len(found))
    plain, _, plain_of_two, _loading, asked, asked_of_two = counts
    assert (asked, asked_of_two) == (plain + 1, plain_of_two + 1)


@devices
def test_all_policies_of_a_space_are_measured_as_on_the_host(device, tmp_path):
    # The answers of these seeds have no image token, which no release of transformers takes.
    model, samples = tiny.llava(4), [sample([3, 4], seed) for seed in (1, 2, 3)]
    space = dop_space(4, ranker=RankerSpec("cls"))
    policies = [space.decode(point) for point in space.points.tolist()]
    found = {}
    for place in ("cpu", device):
        with Store(tmp_path / f"{place}.db", {}) as store:
            engine = Engine(deepcopy(model).to(place), store, 2)
            there = [replace(each, inputs=moved(each.inputs, place)) for each in samples]
            found[place] = engine.measure(policies, there)
    assert np.abs(found["cpu"] - found[device]).max() <= 5e-6 * max(1, found["cpu"].max())


@devices
def test_what_the_host_made_is_the_same_there(device):
    there = torch.arange(3).to(device)
    for values in ([0, 1, 2], np.arange(3), torch.arange(3), there):
        found = upload(values, there.device)
        assert found.device == there.device
        assert found.tolist() == [0, 1, 2]


def test_a_sweep_waits_equally_often_for_any_depth(tmp_path):
    counted = {}
    for layers in (2, 5):
        space = dop_space(layers, ranker=RankerSpec("cls"))
        policies = [space.decode(point) for point in space.points.tolist()]
        model = tiny.llava(layers).to("pretend")
        check_supported(model)  # compares a layer, once
        with Store(tmp_path / f"{layers}.db", {}) as store, waits() as found:
            Engine(model, store, 1).measure(policies, [sample([3, 4])])
        counted[layers] = list(found)
    assert counted[2] == counted[5]
    assert len(counted[2]) < 12


@pytest.mark.slow
@devices
def test_a_run_finds_what_it_finds_on_the_host(device, tmp_path):
    found = {}
    for place in ("cpu", device):
        config = RunConfig(
            samples=3, heldout=2, n_v=(".5",), budget=("50%",), device=place, out=tmp_path / place
        )
        found[place] = run(config, Console(quiet=True))
    assert found[device].solution.policy == found["cpu"].solution.policy
    here, away = found["cpu"].comparison, found[device].comparison
    pd.testing.assert_frame_equal(here, away, rtol=0, atol=1e-4)


# Faults that the pretended device must notice, or the tests above prove nothing.


@pytest.mark.parametrize(
    "meet",
    [
        lambda x: x + torch.ones(3),
        lambda x: torch.cat([x, torch.ones(3)]),
        lambda x: torch.ones(3).index_add_(0, torch.arange(3), x),
        lambda x: torch.where(x > 0, x, torch.ones(3)),
        lambda x: torch.ones(5)[torch.arange(3).to(x.device)],
        lambda x: torch.nn.Linear(3, 2)(x),
        lambda x: x.numpy(),
    ],
)
def test_two_devices_do_not_meet(meet):
    with pytest.raises((AssertionError, RuntimeError)):
        meet(torch.zeros(3).to("pretend"))


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: bool(x.any()),
        lambda x: int(x[0]),
        lambda x: x.cpu(),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: x[torch.tensor([0, 1])],
        lambda x: torch.tensor([1, 2], device=x.device),
        lambda x: torch.ones(3).to(x.device),
        lambda x: x.copy_(torch.ones(3)),
        lambda x: torch.ones(3).copy_(x),
        lambda x: torch.equal(x, x),
    ],
)
def test_what_waits_is_written_down(wait):
    x = torch.zeros(3).to("pretend")
    with waits() as found:
        wait(x)
    assert found
